use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn bell() -> (Arc<AtomicUsize>, Arc<dyn Fn() + Send + Sync>) {
    let rung = Arc::new(AtomicUsize::new(0));
    let counter = rung.clone();
    let wake = move || {
        counter.fetch_add(1, Ordering::SeqCst);
    };
    (rung, Arc::new(wake))
}

#[test]
fn a_window_gives_room_in_sets_batches_and_bytes() {
    let window = WindowCore::new(10, 2, 100);
    assert!(window.take(4, 40));
    assert_eq!(window.room(), 6);
    assert!(!window.take(7, 1), "more SETs than there is room for");
    assert!(!window.take(1, 61), "more bytes than there is room for");
    assert!(window.take(1, 1));
    assert!(!window.take(1, 1), "more batches than there is room for");
    assert_eq!(window.room(), 0);
    window.give(1, 1, 1);
    assert_eq!(window.room(), 6);
}

#[test]
fn a_batch_larger_than_the_window_passes_alone() {
    let window = WindowCore::new(10, 2, 100);
    assert!(window.take(1, 1));
    assert!(!window.take(1, 1000));
    window.give(1, 1, 1);
    assert!(window.take(1, 1000));
    assert!(!window.take(1, 1));
}

#[test]
fn a_shut_window_lets_nothing_through_and_tells_when_it_opens() {
    let window = WindowCore::new(10, 10, 100);
    window.limit(0, 0, 0);
    assert_eq!((window.room(), window.take(1, 1)), (0, false));
    let (rung, wake) = bell();
    window.when_room(wake);
    window.limit(1, 1, 1);
    assert_eq!((rung.load(Ordering::SeqCst), window.take(1, 1)), (1, true));
}

#[test]
fn those_who_wait_are_woken_in_turn_and_a_chance_not_taken_is_passed_on() {
    let window = WindowCore::new(1, 1, 100);
    assert!(window.take(1, 1));
    let ((first, wake_first), (second, wake_second)) = (bell(), bell());
    let ticket = window.when_room(wake_first);
    window.when_room(wake_second);
    window.give(1, 1, 1);
    assert_eq!((first.load(Ordering::SeqCst), second.load(Ordering::SeqCst)), (1, 0));
    assert!(!window.withdraw(ticket), "it was woken already");
    window.pass_on();
    assert_eq!(second.load(Ordering::SeqCst), 1);
}

#[test]
fn a_withdrawn_waiter_is_not_woken() {
    let window = WindowCore::new(1, 1, 100);
    assert!(window.take(1, 1));
    let (rung, wake) = bell();
    let ticket = window.when_room(wake);
    assert!(window.withdraw(ticket));
    window.give(1, 1, 1);
    assert_eq!(rung.load(Ordering::SeqCst), 0);
}
