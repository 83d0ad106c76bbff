use setgate_set::{OrderKey, Timestamp};
use setgate_store::{Boot, Head, IssuerNo, Position, ProducerNo, Version};

use super::*;

fn slot(seq: u64, key: u64) -> Slot {
    Slot::new(Head {
        at: Position::new(seq),
        boot: Boot(1),
        kind: setgate_store::Kind::Intake,
        issuer: IssuerNo(1),
        producer: ProducerNo(1),
        config: Version(1),
        accepted: Timestamp::default(),
        order: OrderKey::from_bits(key),
        body_len: 100,
    })
}

const ONE: ConsumerNo = ConsumerNo::NOBODY.next();
const TWO: ConsumerNo = ONE.next();

fn fetch(lanes: &mut Lanes, order: Order, most: usize, bytes: usize) -> Vec<Slot> {
    lanes.fetch(ONE, order, most, bytes, 0).0
}

fn seqs(slots: &[Slot]) -> Vec<u64> {
    slots.iter().map(Slot::seq).collect()
}

#[test]
fn per_set_fetches_one_of_each_key() {
    let mut lanes = Lanes::new(100);
    for (seq, key) in [(1, 7), (2, 7), (3, 8), (4, 7)] {
        assert_eq!(lanes.offer(slot(seq, key), None), Offered::Taken);
    }
    let fetched = fetch(&mut lanes, Order::PerSet, 10, usize::MAX);
    assert_eq!(seqs(&fetched), [1, 3]);
    assert!(fetch(&mut lanes, Order::PerSet, 10, usize::MAX).is_empty());
    assert_eq!(lanes.settled(OrderKey::from_bits(7), 1), None);
    assert_eq!(seqs(&fetch(&mut lanes, Order::PerSet, 10, usize::MAX)), [2]);
}

#[test]
fn per_batch_fetches_a_key_in_order_and_keeps_it_until_all_are_settled() {
    let mut lanes = Lanes::new(100);
    for (seq, key) in [(1, 7), (2, 7), (3, 8), (4, 7)] {
        lanes.offer(slot(seq, key), None);
    }
    let mut fetched = fetch(&mut lanes, Order::PerBatch, 3, usize::MAX);
    assert_eq!(seqs(&fetched), [1, 2, 4]);
    lanes.settled(OrderKey::from_bits(7), 1);
    assert_eq!(lanes.put_back(fetched.remove(1), None), [4], "it was fetched behind it");
    assert_eq!(seqs(&fetch(&mut lanes, Order::PerBatch, 3, usize::MAX)), [3], "4 is still held");
    lanes.put_back(fetched.remove(1), None);
    assert_eq!(seqs(&fetch(&mut lanes, Order::PerBatch, 3, usize::MAX)), [2, 4]);
}

#[test]
fn a_batch_keeps_to_its_bytes_but_never_starves() {
    let mut lanes = Lanes::new(100);
    for seq in 1..=5 {
        lanes.offer(slot(seq, seq), None);
    }
    assert_eq!(seqs(&fetch(&mut lanes, Order::PerSet, 10, 250)), [1, 2]);
    assert_eq!(seqs(&fetch(&mut lanes, Order::PerSet, 10, 1)), [3], "one SET always fits");
}

#[test]
fn a_blocked_key_costs_a_bit_when_the_ready_set_is_full() {
    let mut lanes = Lanes::new(2);
    assert_eq!(lanes.offer(slot(1, 7), None), Offered::Taken);
    assert_eq!(lanes.offer(slot(2, 7), None), Offered::Taken);
    assert_eq!(lanes.offer(slot(3, 7), None), Offered::PassedOver);
    assert_eq!(lanes.offer(slot(4, 8), None), Offered::Taken, "another key is not held up");
    assert_eq!(seqs(&fetch(&mut lanes, Order::PerSet, 10, usize::MAX)), [1, 4]);
    assert_eq!(lanes.settled(OrderKey::from_bits(7), 1), None);
    assert_eq!(lanes.offer(slot(5, 7), None), Offered::PassedOver, "it must not overtake 3");
    assert_eq!(seqs(&fetch(&mut lanes, Order::PerSet, 10, usize::MAX)), [2]);
    assert_eq!(lanes.settled(OrderKey::from_bits(7), 2), Some(3), "scan again from there");
}

#[test]
fn a_waiting_lane_wakes_in_time_and_a_late_acknowledgement_takes_it_away() {
    let mut lanes = Lanes::new(10);
    lanes.offer(slot(1, 7), None);
    let mut fetched = fetch(&mut lanes, Order::PerSet, 1, usize::MAX);
    lanes.put_back(fetched.remove(0), Some(Duration::from_secs(5)));
    assert!(!lanes.has_ready());
    lanes.wake(Duration::from_secs(4));
    assert!(!lanes.has_ready());
    lanes.wake(Duration::from_secs(5));
    assert!(lanes.has_ready());
    assert_eq!(lanes.withdraw(OrderKey::from_bits(7), 1), None);
    assert_eq!(lanes.queued(), 0);
    assert!(fetch(&mut lanes, Order::PerSet, 1, usize::MAX).is_empty());
}

#[test]
fn a_key_that_was_forgotten_while_it_stood_ready_does_not_leave_twice() {
    let key = OrderKey::from_bits(7);
    let mut lanes = Lanes::new(100);
    lanes.offer(slot(1, 7), None);
    lanes.forget_below(2);
    assert!(!lanes.has_ready());
    lanes.offer(slot(3, 7), None);
    lanes.withdraw(key, 3);
    assert!(!lanes.has_ready());
    for seq in 4..=6 {
        lanes.offer(slot(seq, 7), None);
    }
    assert_eq!(seqs(&fetch(&mut lanes, Order::PerSet, 10, usize::MAX)), [4], "5 and 6 wait until 4 is settled");
}

#[test]
fn what_was_skipped_counts_no_more_when_its_lane_is_forgotten() {
    let mut lanes = Lanes::new(1);
    for seq in 1..=3 {
        lanes.offer(slot(seq, 7), None);
    }
    assert_eq!(lanes.skipped(), 2);
    assert_eq!(lanes.forget_below(2), Some(2));
    assert_eq!(lanes.skipped(), 0);
}

#[test]
fn a_stopped_key_gives_its_room_to_others() {
    let mut lanes = Lanes::new(2);
    lanes.offer(slot(1, 7), None);
    lanes.offer(slot(2, 7), None);
    lanes.stop(OrderKey::from_bits(7), 1);
    lanes.shrink(false);
    assert_eq!((lanes.queued(), lanes.room()), (1, 1));
    assert!(fetch(&mut lanes, Order::PerSet, 10, usize::MAX).is_empty(), "it is stopped");
    lanes.go_on(OrderKey::from_bits(7));
    assert_eq!(seqs(&fetch(&mut lanes, Order::PerSet, 10, usize::MAX)), [1]);
    assert_eq!(lanes.settled(OrderKey::from_bits(7), 1), Some(2));
}

#[test]
fn who_holds_a_key_may_go_on_with_it_and_nobody_else() {
    let key = OrderKey::from_bits(7);
    let mut lanes = Lanes::new(100);
    for (seq, key) in [(1, 7), (2, 7), (3, 8), (4, 7)] {
        lanes.offer(slot(seq, key), None);
    }
    assert_eq!(seqs(&lanes.fetch(ONE, Order::PerConsumer, 1, usize::MAX, 0).0), [1]);
    assert_eq!(seqs(&lanes.fetch(TWO, Order::PerBatch, 9, usize::MAX, 0).0), [3], "the first key is held");
    assert_eq!((lanes.has_ready(), lanes.holders()), (false, vec![ONE]));
    let mut second = lanes.fetch(ONE, Order::PerConsumer, 1, usize::MAX, 0).0;
    assert_eq!(seqs(&second), [2]);
    assert_eq!(seqs(&lanes.fetch(ONE, Order::PerConsumer, 9, usize::MAX, 0).0), [4]);
    assert_eq!(lanes.put_back(second.remove(0), None), [4], "what left behind it comes back too");
    lanes.put_back(slot(4, 7), None);
    lanes.settled(key, 1);
    assert!(lanes.has_ready() && !lanes.has_held(ONE), "all are nowhere: anybody may go on");
    assert_eq!(seqs(&lanes.fetch(TWO, Order::PerBatch, 9, usize::MAX, 0).0), [2, 4]);
    lanes.consumer_gone(ONE);
    assert!(lanes.holders().is_empty());
}

#[test]
fn a_lane_refused_late_stands_until_its_end_is_written() {
    let key = OrderKey::from_bits(7);
    let mut lanes = Lanes::new(100);
    for seq in 1..=3 {
        lanes.offer(slot(seq, 7), None);
    }
    assert_eq!(lanes.remove(key, 1).map(|slot| slot.seq()), Some(1));
    assert!(!lanes.has_ready());
    lanes.settled(key, 1);
    assert_eq!(seqs(&fetch(&mut lanes, Order::PerBatch, 9, usize::MAX)), [2, 3]);
}
