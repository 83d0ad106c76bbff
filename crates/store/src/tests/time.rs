//! Tests of clocks that jump, and of expiry by age.

use setgate_set::Timestamp;

use super::*;
use crate::{
    Appended, Confirmed, Done, Durability, ParkedFilter, Position, StreamNo, Unit,
    testkit::{acknowledged, append, event, event_once, one, parked, settle, tail},
};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

async fn accepted(store: &Arc<dyn Store>) -> Vec<Timestamp> {
    tail(store).await.iter().map(|entry| entry.head.accepted).collect()
}

async fn repeats(store: &Arc<dyn Store>) -> bool {
    match one(store, Unit::Append { events: vec![event_once("x", &[1], 1, 1)] }).await {
        Done::Appended(answers) => matches!(answers[..], [Appended::Repeat { .. }]),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_id_is_remembered_for_its_window_and_not_much_longer() {
    let mut folder = Folder::new();
    let mut store = folder.store() as Arc<dyn Store>;
    assert!(!repeats(&store).await);
    for _ in 0..23 {
        folder.dial.pass(HOUR);
        store.housekeep().await.unwrap();
        assert!(repeats(&store).await);
    }
    store.close().await.unwrap();
    store = folder.store();
    assert!(repeats(&store).await);
    for _ in 0..8 {
        folder.dial.pass(HOUR);
        store.housekeep().await.unwrap();
    }
    assert!(!repeats(&store).await);
}

#[tokio::test]
async fn a_clock_that_leaps_ahead_destroys_nothing_and_moves_no_time() {
    let mut folder = Folder::with(|options| options.parked_age = Duration::from_secs(3600));
    let store = folder.store() as Arc<dyn Store>;
    assert!(!repeats(&store).await);
    settle(&store, vec![parked(1, 1)], Durability::Sync).await;
    folder.dial.leap(HOUR * 24 * 365);
    assert!(store.health().clock_suspect);
    store.housekeep().await.unwrap();
    assert!(repeats(&store).await, "ids are kept while the clock is not believed");
    assert_eq!(store.parked(ParkedFilter { most: 9, ..ParkedFilter::default() }).await.unwrap().len(), 1);
    append(&store, event("y", &[1])).await;
    let entries = tail(&store).await;
    assert!(entries[1].head.accepted.since(entries[0].head.accepted) < HOUR);
    folder.dial.put_back(HOUR * 24 * 365);
    assert!(!store.health().clock_suspect);
}

#[tokio::test]
async fn a_clock_that_is_set_back_moves_no_accepted_time_back() {
    let mut folder = Folder::new();
    let mut store = folder.store() as Arc<dyn Store>;
    append(&store, event("x", &[1])).await;
    folder.dial.put_back(HOUR * 48);
    append(&store, event("y", &[1])).await;
    assert!(store.health().clock_suspect);
    store.close().await.unwrap();
    store = folder.store();
    assert!(store.health().clock_suspect, "it is behind the last heartbeat");
    append(&store, event("z", &[1])).await;
    assert!(tail(&store).await.iter().map(|entry| entry.head.accepted).is_sorted());
}

#[tokio::test]
async fn a_leap_that_lasts_is_believed_and_times_are_right_again() {
    let mut folder = Folder::new();
    let mut store = folder.store() as Arc<dyn Store>;
    append(&store, event("a", &[1])).await;
    let leap = HOUR * 24 * 12;
    folder.dial.leap(leap);
    append(&store, event("b", &[1])).await;
    let health = store.health();
    assert_eq!(health.clock_offset_seconds, 12 * 24 * 3600);
    assert!(health.clock_trouble.unwrap().contains("confirm-clock"));
    // A restart in between does not begin the wait again: its progress was written.
    folder.dial.pass(MINUTE * 40);
    append(&store, event("c", &[1])).await;
    store.close().await.unwrap();
    store = folder.store();
    append(&store, event("d", &[1])).await;
    assert!(store.health().clock_suspect);
    assert!(store.health().clock_believed_in_seconds.unwrap() <= 20 * 60);
    folder.dial.pass(MINUTE * 21);
    append(&store, event("e", &[1])).await;
    assert_eq!((store.health().clock_suspect, store.health().clock_trouble), (false, None));
    let times = accepted(&store).await;
    assert!(times[3].since(times[0]) < HOUR, "{times:?}");
    let wall = Timestamp::from_millis(folder.runtime.clock.wall_millis());
    assert!(wall.since(times[4]) < MINUTE, "{times:?} at {wall}");
    // Records accepted meanwhile count as young as they are, whatever their time; those accepted before are older.
    for _ in 0..2 {
        let first = |days| store.first_accepted_at(wall.minus(HOUR * 24 * days));
        assert_eq!(first(7).await.unwrap(), Position::new(2));
        assert_eq!(first(13).await.unwrap(), Position::new(1));
        let later = wall.plus(HOUR);
        assert_eq!(
            store.first_accepted_at(later).await.unwrap(),
            Position::new(6),
            "in the end they are as old as all"
        );
        folder.cut(store).await;
        store = folder.store();
    }
}

#[tokio::test]
async fn what_was_parked_while_the_clock_was_suspect_is_as_young_as_it_is() {
    let mut folder = Folder::with(|options| options.parked_age = Duration::from_secs(24 * 3600));
    let mut store = folder.store() as Arc<dyn Store>;
    for _ in 0..2 {
        append(&store, event("a", &[1])).await;
    }
    settle(&store, vec![parked(1, 1)], Durability::Sync).await;
    folder.dial.pass(MINUTE);
    store.close().await.unwrap();
    // The store was off for twelve days, which the machine's uptime does not show.
    folder.dial.leap(HOUR * 24 * 12);
    store = folder.store();
    settle(&store, vec![parked(1, 2)], Durability::Sync).await;
    folder.dial.pass(HOUR);
    store.housekeep().await.unwrap();
    assert!(!store.health().clock_suspect);
    let all = || store.parked(ParkedFilter { most: 9, ..ParkedFilter::default() });
    let kept: Vec<_> = all().await.unwrap().iter().map(|parked| parked.at.seq).collect();
    assert_eq!(kept, [2], "the first was parked twelve days ago, the second in this hour");
    folder.dial.pass(HOUR * 12);
    store.housekeep().await.unwrap();
    folder.dial.pass(HOUR * 13);
    store.housekeep().await.unwrap();
    assert_eq!(all().await.unwrap(), [], "and not for ever");
}

#[tokio::test]
async fn an_event_that_is_accepted_while_the_clock_is_ahead_at_the_opening_does_not_fix_time() {
    let mut folder = Folder::new();
    let mut store = folder.store() as Arc<dyn Store>;
    append(&store, event("a", &[1])).await;
    store.close().await.unwrap();
    let ten_years = HOUR * 24 * 3650;
    folder.dial.leap(ten_years);
    // The same holds where it is opened twice with the wrong clock, closed in order or not.
    for _ in 0..2 {
        store = folder.store();
        assert!(store.health().clock_suspect);
        append(&store, event("b", &[1])).await;
        folder.cut(store).await;
    }
    folder.dial.put_back(ten_years);
    store = folder.store();
    append(&store, event("c", &[1])).await;
    let times = accepted(&store).await;
    assert!(times.last().unwrap().since(times[0]) < MINUTE, "{times:?}");
    assert_eq!((store.health().clock_suspect, store.health().accepted_ahead_seconds), (false, 0));
}

#[tokio::test]
async fn an_operator_lets_times_go_back_that_were_given_under_a_clock_that_was_ahead() {
    let mut folder =
        Folder::with(|options| (options.segment_records, options.clock_steady) = (2, Duration::from_secs(60)));
    let mut store = folder.store() as Arc<dyn Store>;
    append(&store, event("a", &[1])).await;
    // The clock is ahead for so long that it is believed.
    let ten_years = HOUR * 24 * 3650;
    folder.dial.leap(ten_years);
    append(&store, event("b", &[1])).await;
    folder.dial.pass(MINUTE);
    for _ in 0..3 {
        append(&store, event("c", &[1])).await;
    }
    folder.dial.put_back(ten_years);
    append(&store, event("d", &[1])).await;
    assert!(store.health().clock_suspect);
    folder.dial.pass(MINUTE);
    append(&store, event("e", &[1])).await;
    let health = store.health();
    assert!(!health.clock_suspect && health.accepted_ahead_seconds > 3600 * 24 * 3649, "{health:?}");
    assert!(health.clock_trouble.unwrap().contains("confirm-clock"));
    let times = accepted(&store).await;
    assert!(times.is_sorted(), "{times:?}");
    let confirmed = store.confirm_clock().await.unwrap();
    assert!(confirmed.went_back_seconds > 3600 * 24 * 3649, "{confirmed:?}");
    for round in 0..2 {
        append(&store, event("f", &[1])).await;
        let health = store.health();
        assert_eq!((health.accepted_ahead_seconds, health.clock_trouble), (0, None), "round {round}");
        let wall = Timestamp::from_millis(folder.runtime.clock.wall_millis());
        let times = accepted(&store).await;
        assert!(
            wall.since(*times.last().unwrap()) < MINUTE && *times.last().unwrap() <= wall,
            "round {round}: {times:?}"
        );
        folder.cut(store).await;
        store = folder.store();
    }
    // Records accepted in the future expire by age as the rest does.
    let wall = Timestamp::from_millis(folder.runtime.clock.wall_millis());
    let first = store.first_accepted_at(wall.plus(HOUR)).await.unwrap();
    assert_eq!(first, Position { seq: store.bounds().last.seq + 1, ..first });
}

#[tokio::test]
async fn an_operator_can_confirm_the_clock() {
    let mut folder = Folder::new();
    let store = folder.store() as Arc<dyn Store>;
    append(&store, event("a", &[1])).await;
    folder.dial.leap(HOUR * 48);
    assert!(store.health().clock_suspect);
    let confirmed = store.confirm_clock().await.unwrap();
    assert_eq!(confirmed, Confirmed { offset_seconds: 48 * 3600, went_back_seconds: 0 });
    assert!(!store.health().clock_suspect);
    append(&store, event("b", &[1])).await;
    let times = accepted(&store).await;
    assert!(times[1].since(times[0]) >= HOUR * 48, "{times:?}");
    assert_eq!(store.confirm_clock().await.unwrap(), Confirmed::default(), "there is nothing to confirm");
}

#[tokio::test]
async fn parked_sets_beyond_their_limits_are_forgotten_oldest_first() {
    let mut folder =
        Folder::with(|options| (options.parked_count, options.parked_age) = (3, Duration::from_secs(24 * 3600)));
    let store = folder.store() as Arc<dyn Store>;
    for _ in 0..5 {
        append(&store, event("x", &[1])).await;
    }
    settle(&store, (1..=5).map(|seq| parked(1, seq)).collect(), Durability::Sync).await;
    store.housekeep().await.unwrap();
    let all = ParkedFilter { most: 99, ..ParkedFilter::default() };
    let kept = store.parked(all.clone()).await.unwrap();
    assert_eq!(kept.iter().map(|kept| kept.at).collect::<Vec<_>>(), [3, 4, 5].map(Position::new));
    assert_eq!(store.cursor(StreamNo(1)).await.unwrap().tally.parked, 5, "they were parked, and stay counted so");
    for _ in 0..26 {
        folder.dial.pass(HOUR);
        assert!(!store.health().clock_suspect);
    }
    store.housekeep().await.unwrap();
    assert_eq!(store.parked(all).await.unwrap(), []);
    assert_eq!(store.cursor(StreamNo(1)).await.unwrap().parked_now, 0);
}

#[tokio::test]
async fn what_was_parked_under_a_clock_that_was_ahead_is_forgotten_in_its_time() {
    for confirms in [true, false] {
        let mut folder = Folder::with(|options| options.parked_age = Duration::from_secs(24 * 3600));
        folder.dial.leap(HOUR * 24 * 400);
        let store = folder.store() as Arc<dyn Store>;
        append(&store, event("x", &[1])).await;
        settle(&store, vec![parked(1, 1)], Durability::Sync).await;
        folder.dial.put_back(HOUR * 24 * 400);
        if confirms {
            store.confirm_clock().await.unwrap();
        }
        let kept = || store.parked(ParkedFilter { most: 99, ..ParkedFilter::default() });
        for hours in 1..=28 {
            folder.dial.pass(HOUR);
            // Every write checks the clock.
            append(&store, event("y", &[])).await;
            store.housekeep().await.unwrap();
            assert!(hours > 23 || kept().await.unwrap().len() == 1, "it is forgotten after {hours} hours");
        }
        assert_eq!(kept().await.unwrap(), [], "its time was over");
        assert_eq!(store.cursor(StreamNo(1)).await.unwrap().parked_now, 0);
    }
}

#[tokio::test]
async fn parked_sets_beyond_their_bytes_are_forgotten_oldest_first() {
    let mut folder = Folder::with(|options| options.parked_bytes = 2500);
    let store = folder.store() as Arc<dyn Store>;
    for stream in [1, 1, 1, 1, 2] {
        append(&store, event(&"x".repeat(1000), &[stream])).await;
    }
    let all = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 5)].map(|(stream, seq)| parked(stream, seq));
    settle(&store, all.to_vec(), Durability::Sync).await;
    store.housekeep().await.unwrap();
    let kept = store.parked(ParkedFilter { most: 99, ..ParkedFilter::default() }).await.unwrap();
    let kept: Vec<_> = kept.iter().map(|kept| (kept.stream.0, kept.at.seq)).collect();
    assert_eq!(kept, [(1, 3), (1, 4), (2, 5)], "each stream has its own limit");
}

#[tokio::test]
async fn a_producer_with_too_many_ids_loses_its_oldest_and_nobody_elses() {
    let mut folder = Folder::with(|options| options.idempotency_keys_per_producer = 10);
    let store = folder.store() as Arc<dyn Store>;
    let mine = |key: u8| event_once("x", &[1], key, key);
    let other = |key: u8| crate::NewEvent { producer: crate::ProducerNo(2), ..mine(key) };
    let mut batches = vec![(0..12).map(mine).collect::<Vec<_>>(), vec![other(100)]];
    for batch in batches.drain(..) {
        one(&store, Unit::Append { events: batch }).await;
    }
    for _ in 0..7 {
        folder.dial.pass(HOUR);
        assert!(!store.health().clock_suspect);
    }
    one(&store, Unit::Append { events: (20..32).map(mine).collect() }).await;
    store.housekeep().await.unwrap();
    let is_new = |event: crate::NewEvent| {
        let store = store.clone();
        async move {
            matches!(one(&store, Unit::Append { events: vec![event] }).await, Done::Appended(answers) if matches!(answers[..], [Appended::New { .. }]))
        }
    };
    assert!(is_new(mine(1)).await, "the oldest bucket of this producer is given up");
    assert!(!is_new(mine(21)).await);
    assert!(!is_new(other(100)).await);
}

#[tokio::test]
async fn settled_records_are_kept_as_long_as_configured() {
    let mut folder = Folder::with(|options| options.keep_settled = Duration::from_secs(2 * 3600));
    let store = folder.store() as Arc<dyn Store>;
    for _ in 0..20 {
        append(&store, event("x", &[1])).await;
    }
    settle(&store, (1..=20).map(|seq| acknowledged(1, seq)).collect(), Durability::Sync).await;
    store.housekeep().await.unwrap();
    assert_eq!(store.bounds().first, Position::new(1));
    for _ in 0..3 {
        folder.dial.pass(HOUR);
        assert!(!store.health().clock_suspect);
    }
    store.housekeep().await.unwrap();
    assert_eq!(store.bounds().first, Position::new(17), "closed segments are gone, the open one stays");
}

/// Fills a segment exactly, ends the process, and appends once more: the segment closes before this process wrote to
/// it.
async fn just_full(folder: &mut Folder) -> Arc<dyn Store> {
    let mut store = folder.store() as Arc<dyn Store>;
    for _ in 0..folder.options.segment_records {
        append(&store, event("x", &[1])).await;
    }
    folder.cut(store).await;
    store = folder.store();
    append(&store, event("x", &[1])).await;
    store
}

#[tokio::test]
async fn a_segment_that_was_full_at_the_opening_is_as_old_as_its_records() {
    let mut folder = Folder::new();
    let store = just_full(&mut folder).await;
    let accepted = tail(&store).await[0].head.accepted;
    assert_eq!(store.first_accepted_at(accepted).await.unwrap(), Position::new(1), "what was accepted just now is old");
    // The next process, which finds the segment closed, knows its time as well.
    folder.cut(store).await;
    let store = folder.store() as Arc<dyn Store>;
    assert_eq!(store.first_accepted_at(accepted).await.unwrap(), Position::new(1));
}

#[tokio::test]
async fn a_segment_that_was_full_at_the_opening_is_kept_as_long_as_configured() {
    let mut folder = Folder::with(|options| options.keep_settled = Duration::from_secs(2 * 3600));
    let store = just_full(&mut folder).await;
    let last = folder.options.segment_records;
    settle(&store, (1..=last).map(|seq| acknowledged(1, seq)).collect(), Durability::Sync).await;
    store.housekeep().await.unwrap();
    assert_eq!(store.bounds().first, Position::new(1), "it was accepted just now");
    folder.dial.pass(HOUR / 2 * 3);
    store.housekeep().await.unwrap();
    assert_eq!(store.bounds().first, Position::new(1));
    for _ in 0..2 {
        folder.dial.pass(HOUR);
        assert!(!store.health().clock_suspect);
    }
    store.housekeep().await.unwrap();
    assert_eq!(store.bounds().first, Position::new(last + 1));
}

#[tokio::test]
async fn records_of_a_condensed_segment_are_found_by_their_time() {
    let mut folder = Folder::new();
    let store = folder.store() as Arc<dyn Store>;
    let segment = folder.options.segment_records;
    for _ in 0..2 {
        for _ in 0..segment {
            append(&store, event("x", &[1])).await;
            folder.dial.pass(Duration::from_millis(5));
        }
        folder.dial.pass(HOUR / 2);
    }
    append(&store, event("x", &[1])).await;
    let entries = tail(&store).await;
    let all = (1..=segment).filter(|seq| *seq != 3).map(|seq| acknowledged(1, seq)).collect();
    settle(&store, all, Durability::Sync).await;
    store.housekeep().await.unwrap();
    assert_eq!(store.bounds().first, Position::new(segment + 1));
    let at = |seq: u64| entries[seq as usize - 1].head.accepted;
    assert_eq!(store.first_accepted_at(at(1)).await.unwrap(), Position::new(3), "the first that is kept");
    let late = Timestamp::from_millis(at(3).as_millis() + 1);
    assert!(late <= at(segment), "the segment ends later");
    assert_eq!(store.first_accepted_at(late).await.unwrap(), Position::new(segment + 1));
    assert_eq!(store.first_accepted_at(at(segment + 1)).await.unwrap(), Position::new(segment + 1));
}
