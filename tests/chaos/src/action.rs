//! What happens in a history, drawn from the seed before it begins, so that actions can be left out of it.

use crate::{book::Mood, dice::Dice, receivers::Way};

/// The number of streams that a history knows by name.
pub(crate) const STREAMS: usize = 5;

/// One action. Each begins when the one before has begun, and goes on beside those that follow.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// A producer puts in events about one subject. An `id` below 3 is used again and again.
    Emit {
        subject: u64,
        kind: u64,
        issuer: usize,
        count: u64,
        id: Option<(u64, bool)>,
    },
    /// Time passes until everything that is due has been done.
    Pass {
        millis: u64,
    },
    /// A receiver behaves otherwise.
    Mood {
        stream: usize,
        mood: Mood,
    },
    /// A stream is declared, anew or with other wishes.
    Declare {
        stream: usize,
        way: Way,
        wishes: u64,
    },
    /// A stream is declared no more.
    Absent {
        stream: usize,
    },
    Disable {
        stream: usize,
    },
    Pause {
        stream: usize,
    },
    Resume {
        stream: usize,
        reissue: bool,
    },
    Delete {
        stream: usize,
    },
    Reissue {
        pick: u64,
        out_of_order: bool,
    },
    Discard {
        pick: u64,
    },
    Confirm,
    Leap {
        millis: i64,
    },
    Full {
        full: bool,
    },
    RefuseWrite {
        full: bool,
    },
    FailFlush,
    Housekeep,
    /// Events come and are delivered while a round of housekeeping rests behind its first step, in milliseconds.
    Busy {
        rest: u64,
        events: u64,
        crash: bool,
    },
    /// The process ends at this many places of the disk from now.
    Cut {
        after: u64,
    },
    /// The process ends when this many steps of its tasks are done.
    Kill {
        steps: u64,
    },
    /// The process ends in order.
    Close,
    Compare,
}

const HOUR: i64 = 3_600_000;

impl Action {
    /// Draws an action.
    fn draw(dice: &Dice) -> Self {
        let stream = dice.index(STREAMS);
        match dice.under(100) {
            0..34 => {
                let id = (dice.once_in(2)).then(|| (dice.under(40), dice.once_in(8)));
                let count = if dice.once_in(6) { 1 + dice.under(12) } else { 1 + dice.under(3) };
                let issuer = usize::from(dice.once_in(5));
                Self::Emit { subject: dice.under(5), kind: dice.under(3), issuer, count, id }
            }
            34..52 => {
                let millis = match dice.under(10) {
                    0..4 => 1 + dice.under(50),
                    4..8 => 200 + dice.under(5_000),
                    8 => 20_000 + dice.under(60_000),
                    _ => 120_000 + dice.under(600_000),
                };
                Self::Pass { millis }
            }
            52..61 => {
                let mood = match dice.under(10) {
                    0 | 1 => Mood::Good,
                    2 => Mood::Slow,
                    3 => Mood::Dead,
                    4 => Mood::Refuses,
                    5 => Mood::BadKey,
                    6 => Mood::Poisonous,
                    7 | 8 => Mood::Flaky,
                    _ => Mood::Halted,
                };
                Self::Mood { stream, mood }
            }
            61..67 => Self::Declare { stream, way: Self::way(stream, dice), wishes: dice.next() },
            67 => Self::Absent { stream },
            68 => Self::Disable { stream },
            69..71 => Self::Pause { stream },
            71..74 => Self::Resume { stream, reissue: dice.once_in(2) },
            74 => Self::Delete { stream },
            75..78 => Self::Reissue { pick: dice.next(), out_of_order: dice.once_in(2) },
            78 => Self::Discard { pick: dice.next() },
            79 => Self::Confirm,
            80..82 => {
                let small = i64::try_from(dice.under(50 * 60_000)).unwrap_or_default();
                let far = i64::try_from(dice.under(200)).unwrap_or_default() * HOUR + 2 * HOUR;
                let millis = match dice.under(4) {
                    0 => small,
                    1 => -small,
                    2 => far,
                    _ => -far,
                };
                Self::Leap { millis }
            }
            82..84 => Self::Full { full: dice.once_in(2) },
            84 => Self::RefuseWrite { full: dice.once_in(2) },
            85 if dice.once_in(2) => Self::FailFlush,
            85..88 => Self::Housekeep,
            88..93 => Self::Cut { after: dice.under(24) },
            93..95 => Self::Kill { steps: dice.under(60) },
            95 => Self::Close,
            96 => Self::Compare,
            97 | 98 => {
                let events = 4 + dice.under(12);
                Self::Busy { rest: 400 * events, events, crash: dice.once_in(2) }
            }
            _ => Self::Pass { millis: 5_000 },
        }
    }

    /// A stream keeps its way of delivery mostly.
    fn way(stream: usize, dice: &Dice) -> Way {
        let usual = Way::ALL.get(stream % Way::ALL.len()).copied().unwrap_or(Way::Single);
        if dice.once_in(6) { Way::ALL.get(dice.index(Way::ALL.len())).copied().unwrap_or(usual) } else { usual }
    }

    /// Draws the actions of a history.
    pub(crate) fn all(seed: u64) -> Vec<Self> {
        let dice = Dice::part(seed, 1);
        let mut all: Vec<Self> = (0..STREAMS)
            .filter(|stream| *stream < 3 || dice.once_in(2))
            .map(|stream| Self::Declare { stream, way: Self::way(stream, &dice), wishes: dice.next() })
            .collect();
        let many = 40 + dice.under(60);
        all.extend((0..many).map(|_| Self::draw(&dice)));
        all
    }
}
