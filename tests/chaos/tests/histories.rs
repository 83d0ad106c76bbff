//! A few histories, as part of every run of the tests; `cargo xtask simulation` plays many.

use setgate_chaos::{Options, run};

#[test]
fn histories_keep_every_promise_and_are_the_same_twice() {
    let options = Options { histories: Some(12), twice: 3, may_miss: true, ..Options::default() };
    run(&options, &|line| println!("{line}")).unwrap();
}

#[test]
fn a_run_over_too_few_seeds_says_what_never_fired() {
    let options = Options { histories: Some(1), twice: 0, ..Options::default() };
    let why = run(&options, &|_| {}).unwrap_err();
    assert!(why.starts_with("nothing is shown of what never fired: "), "{why}");
}
