//! The laws of a store, each as a claim.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Bench, acknowledged, append, assert_sums, attempted, body, event, event_once, one, owed, parked, settle,
    settle_with, tail,
};
use crate::{
    Appended, Done, Durability, Fence, Key, Kind, NewEvent, ParkedFilter, Position, Put, Rule, Space, Store,
    StoreError, StreamNo, Tally, Unit, Version,
};

async fn cut(bench: &mut impl Bench, store: Arc<dyn Store>) -> Arc<dyn Store> {
    if !bench.survives() {
        return store;
    }
    bench.cut(store).await;
    bench.open().await
}

async fn closed(bench: &mut impl Bench, store: Arc<dyn Store>) -> Arc<dyn Store> {
    if !bench.survives() {
        return store;
    }
    store.close().await.unwrap();
    drop(store);
    bench.open().await
}

fn configure(change: Vec<Put>, expect: Option<Version>) -> Unit {
    Unit::Configure { change, expect, membership: false, drop_through: vec![], notice: vec![] }
}

/// Law 1: an appended head is in the tail after any cut, and its body with it.
pub async fn what_is_appended_is_in_the_tail_after_a_cut(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    for round in 0..4u64 {
        for index in 0..5 {
            append(&store, event(&format!("body-{round}-{index}"), &[1, 2])).await;
        }
        store = cut(bench, store).await;
        let entries = tail(&store).await;
        assert_eq!(entries.len() as u64, (round + 1) * 5);
        assert_eq!(store.bounds().last, Position::new((round + 1) * 5));
        let last = entries.last().unwrap();
        assert_eq!(last.targets.iter().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(body(&store, last.head.at.seq).await, Some(Bytes::from(format!("body-{round}-4"))));
    }
    assert_eq!(owed(&store, 1).await.len(), 20);
}

/// Law 2: the tail never returns a record before the one that precedes it.
pub async fn the_tail_has_no_hole(bench: &mut impl Bench) {
    let store = bench.open().await;
    let writers = (0..4).map(|writer| {
        let store = store.clone();
        async move {
            for index in 0..25 {
                append(&store, event(&format!("{writer}-{index}"), &[1])).await;
            }
        }
    });
    let reader = async {
        let mut seen = 0;
        while seen < 100 {
            let entries = store.tail(Position::new(seen), super::MANY, Duration::from_secs(30)).await.unwrap();
            for entry in entries {
                seen += 1;
                assert_eq!(entry.head.at.seq, seen);
            }
        }
    };
    futures_util::future::join(futures_util::future::join_all(writers), reader).await;
}

/// Law 2 for a reader that lags: it gets what is owed, in order, also where everything around it was deleted meanwhile.
pub async fn a_reader_that_lags_is_told_of_all_that_is_owed(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    for index in 0..60 {
        append(&store, event(&format!("body-{index}"), &[1, 2])).await;
    }
    let first = store.tail(Position::START, 5, Duration::ZERO).await.unwrap();
    let mut read: Vec<u64> = first.iter().map(|entry| entry.head.at.seq).collect();
    assert_eq!(read, [1, 2, 3, 4, 5]);
    settle(&store, (1..=60).map(|seq| acknowledged(1, seq)).collect(), Durability::Sync).await;
    let kept = |seq: &u64| ![3, 17, 47].contains(seq);
    settle(&store, (1..=60).filter(kept).map(|seq| acknowledged(2, seq)).collect(), Durability::Sync).await;
    append(&store, event("late", &[2])).await;
    for _ in 0..2 {
        store.housekeep().await.unwrap();
        let mut told = read.clone();
        while *told.last().unwrap() < 61 {
            let after = Position::new(*told.last().unwrap());
            let more = store.tail(after, 7, Duration::ZERO).await.unwrap();
            assert!(!more.is_empty() && more[0].head.at > after, "after {after}");
            told.extend(more.iter().map(|entry| entry.head.at.seq));
        }
        assert!(told.is_sorted());
        for seq in [17, 47, 61] {
            assert!(told.contains(&seq), "record {seq} is owed and the tail leaves it out: {told:?}");
        }
        store = cut(bench, store).await;
    }
    // Nothing is owed any more: there is nothing to return, and a reader that waits gets what comes.
    settle(&store, [3, 17, 47, 61].map(|seq| acknowledged(2, seq)).to_vec(), Durability::Sync).await;
    store.housekeep().await.unwrap();
    read = store
        .tail(Position::new(5), super::MANY, Duration::from_millis(5))
        .await
        .unwrap()
        .iter()
        .map(|entry| entry.head.at.seq)
        .collect();
    assert!(read.iter().all(|seq| *seq >= store.bounds().first.seq), "{read:?}");
    let last = store.bounds().last;
    let waiting = store.tail(last, super::MANY, Duration::from_secs(60));
    let (entries, at) = futures_util::future::join(waiting, append(&store, event("x", &[1]))).await;
    assert_eq!(entries.unwrap().iter().map(|entry| entry.head.at.seq).collect::<Vec<_>>(), [at]);
}

/// The tail answers as soon as there is a record, and after the wait when there is none.
pub async fn the_tail_waits_for_the_first_record(bench: &mut impl Bench) {
    let store = bench.open().await;
    assert!(store.tail(Position::START, super::MANY, Duration::from_millis(5)).await.unwrap().is_empty());
    let waiting = store.tail(Position::START, super::MANY, Duration::from_secs(60));
    let (entries, _) = futures_util::future::join(waiting, append(&store, event("x", &[1]))).await;
    assert_eq!(entries.unwrap().len(), 1);
}

/// Law 3: the same key and body have the same position; the same key and another body are a conflict.
pub async fn the_same_key_and_body_have_the_same_position(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    let first = append(&store, event_once("x", &[1], 9, 1)).await;
    for _ in 0..2 {
        let again = one(&store, Unit::Append { events: vec![event_once("x", &[1], 9, 1)] }).await;
        assert_eq!(again, Done::Appended(vec![Appended::Repeat { at: Position::new(first), txn: "txn-1".into() }]));
        let other = one(&store, Unit::Append { events: vec![event_once("y", &[1], 9, 2)] }).await;
        assert_eq!(other, Done::Appended(vec![Appended::Conflict { at: Position::new(first) }]));
        assert_eq!(owed(&store, 1).await, [first]);
        store = cut(bench, store).await;
    }
}

/// Law 3 inside one group: the repeat waits for the same commit and names the same position.
pub async fn a_repeat_in_the_same_unit_is_a_repeat(bench: &mut impl Bench) {
    let store = bench.open().await;
    let events = vec![event_once("x", &[1], 9, 1), event_once("x", &[1], 9, 1), event_once("y", &[1], 9, 3)];
    let Done::Appended(answers) = one(&store, Unit::Append { events }).await else { panic!("appended") };
    let at = Position::new(1);
    assert!(matches!(answers[0], Appended::New { at: Position { seq: 1, .. }, .. }));
    assert_eq!(answers[1..], [Appended::Repeat { at, txn: "txn-1".into() }, Appended::Conflict { at }]);
    assert_eq!(owed(&store, 1).await, [1]);
    let calls = (0..8).map(|_| one(&store, Unit::Append { events: vec![event_once("z", &[1], 4, 4)] }));
    let done = futures_util::future::join_all(calls).await;
    let news = done
        .iter()
        .filter(|done| matches!(done, Done::Appended(answers) if matches!(answers[..], [Appended::New { .. }])));
    assert_eq!(news.count(), 1);
}

/// An event that was decided before the membership of streams changed is decided again.
pub async fn an_older_decision_is_stale(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    let decided = |version: Version| NewEvent { config: version, ..event_once("x", &[1], 1, 1) };
    let change =
        |membership| Unit::Configure { change: vec![], expect: None, membership, drop_through: vec![], notice: vec![] };
    let before = store.version();
    one(&store, change(false)).await;
    assert!(
        matches!(one(&store, Unit::Append { events: vec![decided(before)] }).await, Done::Appended(answers) if matches!(answers[..], [Appended::New { .. }]))
    );
    one(&store, change(true)).await;
    store = cut(bench, store).await;
    let now = store.version();
    let stale = one(&store, Unit::Append { events: vec![decided(before)] }).await;
    assert_eq!(stale, Done::Appended(vec![Appended::Stale { now }]));
    let answer = one(&store, Unit::Append { events: vec![decided(now)] }).await;
    assert_eq!(answer, Done::Appended(vec![Appended::Repeat { at: Position::new(1), txn: "txn-1".into() }]));
}

/// Law 4: a unit is whole or absent after any cut; here it is whole, since it was answered.
pub async fn a_unit_is_whole_or_absent(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    append(&store, event("x", &[1])).await;
    let notice = NewEvent { kind: Kind::Control, ..event("notice", &[1]) };
    let unit = Unit::Configure {
        change: vec![Put { key: "stream/1".into(), value: Some(Bytes::from_static(b"one")) }],
        expect: Some(Version(0)),
        membership: true,
        drop_through: vec![(StreamNo(1), Rule::Disabled)],
        notice: vec![notice],
    };
    let done = one(&store, unit).await;
    assert_eq!(done, Done::Configured { version: Version(1), notices: vec![Position::new(2)] });
    store = cut(bench, store).await;
    assert_eq!(store.version(), Version(1));
    assert_eq!(store.get(vec!["stream/1".into()]).await.unwrap()[0].as_ref().unwrap().value, "one");
    assert_eq!(owed(&store, 1).await, [2]);
    let control = store.owed_control(StreamNo(1)).await.unwrap();
    assert_eq!(control.iter().map(|head| (head.at.seq, head.kind)).collect::<Vec<_>>(), [(2, Kind::Control)]);
    assert_eq!(store.cursor(StreamNo(1)).await.unwrap().tally.dropped[&Rule::Disabled], 1);
}

/// Law 5: an old fence changes nothing.
pub async fn an_old_fence_changes_nothing(bench: &mut impl Bench) {
    let store = bench.open().await;
    let at = append(&store, event("x", &[1])).await;
    let old = Fence { epoch: store.fence().epoch.wrapping_sub(1) };
    assert_eq!(settle_with(&store, old, vec![acknowledged(1, at)], Durability::Sync).await, Done::Fenced);
    let below = Position::new(9);
    assert_eq!(
        one(&store, Unit::Retain { fence: old, stream: StreamNo(1), below, rule: Rule::TooOld }).await,
        Done::Fenced
    );
    assert_eq!(
        one(&store, Unit::Reissue { fence: old, stream: StreamNo(1), of: Position::new(at) }).await,
        Done::Fenced
    );
    assert_eq!(
        one(&store, Unit::Discard { fence: old, what: vec![(StreamNo(1), Position::new(at))] }).await,
        Done::Fenced
    );
    assert_eq!(owed(&store, 1).await, [at]);
    if bench.survives() {
        let before = store.fence();
        let store = cut(bench, store).await;
        assert_ne!(store.fence(), before, "an opening is a new epoch");
        assert_eq!(settle_with(&store, before, vec![acknowledged(1, at)], Durability::Sync).await, Done::Fenced);
    }
}

/// Law 6: settlements commute, repetitions are harmless, and the first end wins.
pub async fn settlements_commute_and_the_first_end_wins(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    for _ in 0..4 {
        append(&store, event("x", &[1, 2])).await;
    }
    let done = settle(
        &store,
        vec![acknowledged(1, 3), acknowledged(1, 1), acknowledged(1, 3), parked(1, 1)],
        Durability::Sync,
    )
    .await;
    assert_eq!(done, Done::Settled(2));
    assert_eq!(settle(&store, vec![acknowledged(1, 1), parked(1, 3)], Durability::Sync).await, Done::Settled(0));
    assert_eq!(settle(&store, vec![acknowledged(2, 99), acknowledged(7, 1)], Durability::Sync).await, Done::Settled(0));
    store = cut(bench, store).await;
    assert_eq!(owed(&store, 1).await, [2, 4]);
    assert_eq!(owed(&store, 2).await, [1, 2, 3, 4]);
    let cursor = store.cursor(StreamNo(1)).await.unwrap();
    assert_eq!((cursor.tally.acknowledged_receiver, cursor.tally.parked, cursor.parked_now), (2, 0, 0));
    assert_sums(&store, 1..=2).await;
}

/// A lazy settlement counts at once and survives a close.
pub async fn lazy_settlements_count_at_once_and_stay_after_a_close(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    for _ in 0..3 {
        append(&store, event("x", &[1])).await;
    }
    assert_eq!(settle(&store, vec![acknowledged(1, 2)], Durability::Lazy).await, Done::Settled(1));
    assert!(!store.is_owed(StreamNo(1), Position::new(2)));
    assert_eq!(settle(&store, vec![acknowledged(1, 2)], Durability::Lazy).await, Done::Settled(0));
    store = closed(bench, store).await;
    assert_eq!(owed(&store, 1).await, [1, 3]);
    assert_sums(&store, 1..=1).await;
}

/// Law 7: records that are owed are never trimmed.
pub async fn what_is_owed_is_never_trimmed(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    for index in 0..60 {
        append(&store, event(&format!("body-{index}"), &[1, 2])).await;
    }
    let acks = |stream| move |seq: u64| acknowledged(stream, seq);
    settle(&store, (1..=60).map(acks(1)).collect(), Durability::Sync).await;
    settle(&store, (1..=60).filter(|seq| *seq != 3 && *seq != 47).map(acks(2)).collect(), Durability::Sync).await;
    for _ in 0..3 {
        store.housekeep().await.unwrap();
        assert_eq!(owed(&store, 2).await, [3, 47]);
        assert_eq!(body(&store, 3).await, Some("body-2".into()));
        assert_eq!(body(&store, 47).await, Some("body-46".into()));
        let first = store.bounds().first;
        assert!(first > Position::new(2), "nothing was trimmed: the tail begins at {first}");
        store = cut(bench, store).await;
    }
    append(&store, event("after", &[2])).await;
    assert_eq!(owed(&store, 2).await, [3, 47, 61]);
    let told: Vec<u64> = tail(&store).await.iter().map(|entry| entry.head.at.seq).collect();
    let first = store.bounds().first.seq;
    let expected: Vec<u64> = [3, 47].into_iter().filter(|seq| *seq < first).chain(first..=61).collect();
    assert_eq!(told, expected);
}

/// Law 8: owed = acknowledged + parked + dropped + waiting after every cut.
pub async fn counts_add_up_after_every_cut(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    for round in 0..5u64 {
        let base = round * 6;
        for _ in 0..6 {
            append(&store, event("x", &[1, 2, 3])).await;
        }
        settle(
            &store,
            vec![acknowledged(1, base + 1), parked(1, base + 2), attempted(1, base + 3, 1)],
            Durability::Sync,
        )
        .await;
        settle(&store, vec![acknowledged(2, base + 1), acknowledged(3, base + 5)], Durability::Lazy).await;
        let fence = store.fence();
        one(&store, Unit::Retain { fence, stream: StreamNo(3), below: Position::new(base + 3), rule: Rule::TooMany })
            .await;
        store = cut(bench, store).await;
        assert_sums(&store, 1..=3).await;
    }
    let tally = store.cursor(StreamNo(1)).await.unwrap().tally;
    assert_eq!((tally.owed, tally.acknowledged_receiver, tally.parked, tally.waiting), (30, 5, 5, 20));
}

/// A parked SET keeps body, code, text and order key; issuing it again gives a new position, and it is no longer
/// parked.
pub async fn a_parked_set_keeps_what_is_needed_to_issue_it_again(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    let at = append(&store, event("precious", &[1])).await;
    let head = store.heads(vec![Position::new(at)]).await.unwrap().remove(0).unwrap();
    settle(&store, vec![parked(1, at)], Durability::Sync).await;
    store = cut(bench, store).await;
    let kept = store.parked(ParkedFilter { most: 10, ..ParkedFilter::default() }).await.unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(
        (kept[0].stream, kept[0].at.seq, &kept[0].body[..], &*kept[0].text),
        (StreamNo(1), at, b"precious".as_slice(), "no")
    );
    assert_eq!(kept[0].jti, store.names().jti(head.at, StreamNo(1), head.boot));
    assert_eq!((kept[0].order, kept[0].attempts, kept[0].accepted), (head.order, 3, head.accepted));
    let fence = store.fence();
    let again = Unit::Reissue { fence, stream: StreamNo(1), of: Position::new(at) };
    assert_eq!(one(&store, again.clone()).await, Done::Reissued(Some(Position::new(at + 1))));
    assert_eq!(one(&store, again).await, Done::Reissued(None));
    store = cut(bench, store).await;
    let new = store.heads(vec![Position::new(at + 1)]).await.unwrap().remove(0).unwrap();
    assert_eq!(new.kind, Kind::Reissue { of: Position::new(at) });
    assert_eq!((new.issuer, new.producer, new.order), (head.issuer, head.producer, head.order));
    assert_eq!(body(&store, at + 1).await, Some("precious".into()));
    assert_eq!(owed(&store, 1).await, [at + 1]);
    assert_eq!(store.cursor(StreamNo(1)).await.unwrap().parked_now, 0);
    assert_sums(&store, 1..=1).await;
}

/// Parked SETs are listed by (stream, position), filtered and paged, and discarded for good.
pub async fn parked_sets_are_listed_in_order_and_discarded(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    for _ in 0..3 {
        append(&store, event("x", &[1, 2])).await;
    }
    settle(&store, vec![parked(2, 3), parked(1, 2), parked(2, 1), parked(1, 1)], Durability::Sync).await;
    let list = |which: ParkedFilter| {
        let store = store.clone();
        async move {
            let kept = store.parked(which).await.unwrap();
            kept.iter().map(|kept| (kept.stream.0, kept.at.seq)).collect::<Vec<_>>()
        }
    };
    let all = ParkedFilter { most: 10, ..ParkedFilter::default() };
    assert_eq!(list(all.clone()).await, [(1, 1), (1, 2), (2, 1), (2, 3)]);
    assert_eq!(list(ParkedFilter { stream: Some(StreamNo(2)), ..all.clone() }).await, [(2, 1), (2, 3)]);
    let page = ParkedFilter { from: Some((StreamNo(1), Position::new(2))), most: 2, ..ParkedFilter::default() };
    assert_eq!(list(page).await, [(1, 2), (2, 1)]);
    assert_eq!(list(ParkedFilter { code: Some(setgate_set::ErrorCode::Poison), ..all.clone() }).await, []);
    let what = vec![(StreamNo(2), Position::new(1)), (StreamNo(2), Position::new(2))];
    assert_eq!(one(&store, Unit::Discard { fence: store.fence(), what }).await, Done::Discarded(1));
    store = cut(bench, store).await;
    let kept = store.parked(all).await.unwrap();
    assert_eq!(kept.iter().map(|kept| (kept.stream.0, kept.at.seq)).collect::<Vec<_>>(), [(1, 1), (1, 2), (2, 3)]);
    assert_eq!(store.cursor(StreamNo(2)).await.unwrap().parked_now, 1);
    assert_eq!(store.health().parked, 3);
    assert_sums(&store, 1..=2).await;
}

/// Law 9: a position with one boot never names two bodies.
pub async fn no_position_of_one_boot_names_two_bodies(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    let mut named = std::collections::HashMap::new();
    for round in 0..4 {
        append(&store, event(&format!("body-{round}"), &[1])).await;
        for entry in tail(&store).await {
            let text = body(&store, entry.head.at.seq).await.unwrap();
            let before = named.insert((entry.head.at.seq, entry.head.boot), text.clone());
            assert!(before.is_none_or(|before| before == text));
        }
        store = cut(bench, store).await;
    }
    if bench.survives() {
        let boots: std::collections::HashSet<_> = named.keys().map(|(_, boot)| *boot).collect();
        assert_eq!(boots.len(), 4, "every opening has its own nonce");
    }
}

/// Law 10: a number is never given twice.
pub async fn numbers_are_never_given_twice(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    let mut given = std::collections::HashSet::new();
    for _ in 0..3 {
        for space in [Space::Stream, Space::Stream, Space::Issuer, Space::Producer] {
            let Done::Allocated(number) = one(&store, Unit::Allocate { space }).await else { panic!("allocated") };
            assert!(number > 0 && given.insert((space, number)), "{space:?} {number}");
        }
        store = cut(bench, store).await;
    }
}

/// A change made from another version changes nothing.
pub async fn a_change_against_another_version_changes_nothing(bench: &mut impl Bench) {
    let store = bench.open().await;
    let put = |text: &'static str| vec![Put { key: "a".into(), value: Some(Bytes::from_static(text.as_bytes())) }];
    assert_eq!(
        one(&store, configure(put("1"), Some(Version(0)))).await,
        Done::Configured { version: Version(1), notices: vec![] }
    );
    assert_eq!(one(&store, configure(put("2"), Some(Version(0)))).await, Done::Outdated(Version(1)));
    let kept = store.get(vec!["a".into(), "b".into()]).await.unwrap();
    assert_eq!(kept[0].as_ref().map(|kept| (kept.version, kept.value.clone())), Some((Version(1), "1".into())));
    assert_eq!(kept[1], None);
    assert_eq!(store.version(), Version(1));
}

/// Disabling drops everything up to now, except the notice that announces it.
pub async fn disabling_drops_what_is_owed_and_its_notice_stays(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    for _ in 0..3 {
        append(&store, event("x", &[1, 2])).await;
    }
    settle(&store, vec![attempted(1, 1, 1)], Durability::Sync).await;
    let notice = vec![NewEvent { kind: Kind::Control, ..event("bye", &[1]) }];
    let drop_through = vec![(StreamNo(1), Rule::Disabled)];
    one(&store, Unit::Configure { change: vec![], expect: None, membership: true, drop_through, notice }).await;
    for _ in 0..2 {
        assert_eq!(owed(&store, 1).await, [4]);
        assert_eq!(owed(&store, 2).await, [1, 2, 3]);
        assert_eq!(store.attempts(StreamNo(1)), []);
        let cursor = store.cursor(StreamNo(1)).await.unwrap();
        assert_eq!(cursor.dropped_through, Position::new(3));
        assert_eq!(cursor.tally.dropped[&Rule::Disabled], 3);
        assert_eq!(cursor.oldest.unwrap().at.seq, 4);
        assert_sums(&store, 1..=2).await;
        store = cut(bench, store).await;
    }
}

/// The cursor of a deleted stream is removed when none of its SETs is parked any more, whether or not anything was owed
/// at the deletion.
pub async fn a_deleted_stream_leaves_nothing_behind(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    for _ in 0..3 {
        append(&store, event("x", &[1, 2, 3])).await;
    }
    settle(&store, (1..=3).map(|seq| acknowledged(2, seq)).collect(), Durability::Sync).await;
    settle(&store, vec![parked(1, 2)], Durability::Sync).await;
    let drop_through = [1, 2].map(|stream| (StreamNo(stream), Rule::Deleted)).to_vec();
    one(&store, Unit::Configure { change: vec![], expect: None, membership: true, drop_through, notice: vec![] }).await;
    store.housekeep().await.unwrap();
    let owed_ever = |stream| {
        let cursor = store.cursor(StreamNo(stream));
        async { cursor.await.unwrap().tally.owed }
    };
    assert_eq!((owed_ever(1).await, owed_ever(2).await, owed_ever(3).await), (3, 0, 3), "one is parked still");
    let what = vec![(StreamNo(1), Position::new(2))];
    assert_eq!(one(&store, Unit::Discard { fence: store.fence(), what }).await, Done::Discarded(1));
    for _ in 0..2 {
        store.housekeep().await.unwrap();
        for stream in [1, 2] {
            assert_eq!(store.cursor(StreamNo(stream)).await.unwrap().tally, Tally::default(), "stream {stream}");
        }
        assert_eq!(owed(&store, 3).await, [1, 2, 3]);
        assert_sums(&store, 1..=3).await;
        store = cut(bench, store).await;
    }
}

/// Retention drops what is older than a position, and counts it.
pub async fn retention_drops_what_is_older(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    for _ in 0..10 {
        append(&store, event("x", &[1])).await;
    }
    assert_eq!(store.nth_newest(StreamNo(1), 0), Some(Position::new(10)));
    assert_eq!(store.nth_newest(StreamNo(1), 3), Some(Position::new(7)));
    assert_eq!(store.nth_newest(StreamNo(1), 10), None);
    let below = Position::new(7);
    let unit = Unit::Retain { fence: store.fence(), stream: StreamNo(1), below, rule: Rule::TooMany };
    assert_eq!(one(&store, unit.clone()).await, Done::Retained(6));
    assert_eq!(one(&store, unit).await, Done::Retained(0));
    store = cut(bench, store).await;
    assert_eq!(owed(&store, 1).await, [7, 8, 9, 10]);
    let cursor = store.cursor(StreamNo(1)).await.unwrap();
    assert_eq!((cursor.tally.dropped[&Rule::TooMany], cursor.dropped_through), (6, Position::START));
    assert_sums(&store, 1..=1).await;
}

/// Control-plane records are found by key and by prefix, and removed.
pub async fn records_are_found_by_key_and_prefix(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    let put = |key: &str, value: Option<&'static str>| Put {
        key: key.into(),
        value: value.map(|value| Bytes::from_static(value.as_bytes())),
    };
    one(
        &store,
        configure(vec![put("a/1", Some("x")), put("a/2", Some("")), put("b", Some("z")), put("a", Some("y"))], None),
    )
    .await;
    one(&store, configure(vec![put("a/1", None), put("a/3", Some("w"))], None)).await;
    store = cut(bench, store).await;
    let found = store.range(Key::from("a/")).await.unwrap();
    let found: Vec<_> =
        found.iter().map(|record| (record.key.0.as_str(), record.version.0, &record.value[..])).collect();
    assert_eq!(found, [("a/2", 1, b"".as_slice()), ("a/3", 2, b"w")]);
    assert_eq!(store.range(Key::from("")).await.unwrap().len(), 4);
}

/// The attempts of a delivery are kept until it ends.
pub async fn attempts_are_kept_until_the_end(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    for _ in 0..2 {
        append(&store, event("x", &[1])).await;
    }
    settle(
        &store,
        vec![attempted(1, 1, 1), attempted(1, 2, 1), attempted(1, 1, 2), attempted(1, 9, 1)],
        Durability::Lazy,
    )
    .await;
    store = closed(bench, store).await;
    let counts: Vec<_> = store.attempts(StreamNo(1)).into_iter().map(|(at, tried)| (at.seq, tried.count)).collect();
    assert_eq!(counts, [(1, 2), (2, 1)]);
    settle(&store, vec![acknowledged(1, 1)], Durability::Sync).await;
    store = cut(bench, store).await;
    assert_eq!(store.attempts(StreamNo(1)).len(), 1);
}

/// Times of acceptance never go back, and records are found by them.
pub async fn accepted_times_never_go_back(bench: &mut impl Bench) {
    let mut store = bench.open().await;
    for _ in 0..3 {
        append(&store, event("x", &[1])).await;
    }
    store = cut(bench, store).await;
    append(&store, event("x", &[1])).await;
    let times: Vec<_> = tail(&store).await.iter().map(|entry| entry.head.accepted).collect();
    assert!(times.is_sorted());
    assert_eq!(store.first_accepted_at(times[0]).await.unwrap(), Position::new(1));
    let later = setgate_set::Timestamp::from_millis(times[3].as_millis() + 1);
    assert_eq!(store.first_accepted_at(later).await.unwrap(), Position::new(5));
}

/// A closed store refuses everything.
pub async fn a_closed_store_refuses(bench: &mut impl Bench) {
    let store = bench.open().await;
    append(&store, event("x", &[1])).await;
    store.close().await.unwrap();
    let again = store.commit(vec![Unit::Append { events: vec![event("y", &[1])] }], Durability::Sync).await;
    assert!(matches!(again, Err(StoreError::Unavailable(_))), "{again:?}");
    assert!(store.heads(vec![Position::new(99)]).await.is_err());
    assert!(!store.health().accepts);
}
