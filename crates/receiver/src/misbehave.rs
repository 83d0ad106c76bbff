//! Deliberate misbehaviour of a receiver, for tests of a transmitter's retry settings.

use std::{sync::Arc, time::Duration};

use setgate_clock::{Random, duration};
use setgate_delivery::ErrorCode;

/// The misbehaviour that the command line asks for.
#[derive(Clone)]
pub struct Misbehave {
    fail: Vec<(u16, u32)>,
    refuse: Vec<(ErrorCode, u32)>,
    delay: Duration,
    random: Arc<dyn Random>,
}

/// The misbehaviour for one SET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mischief {
    /// The SET is treated as it should be.
    None,
    /// The SET is answered with this HTTP status.
    Fail(u16),
    /// The SET is refused with this code, though it is valid.
    Refuse(ErrorCode),
}

/// The error for an option that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{option}`: {why}")]
pub struct MisbehaveError {
    /// The option as it was given, escaped and cut to 80 bytes.
    pub option: String,
    /// The form that the option should have.
    pub why: &'static str,
}

/// The whole share, in parts per million.
const ALL: u32 = 1_000_000;

impl Misbehave {
    /// Creates settings without any misbehaviour.
    #[must_use]
    pub fn not_at_all(random: Arc<dyn Random>) -> Self {
        Self { fail: Vec::new(), refuse: Vec::new(), delay: Duration::ZERO, random }
    }

    /// Parses the options `--fail STATUS[:SHARE]`, `--refuse CODE[:SHARE]` and `--delay TIME`.
    ///
    /// A share is a percentage such as `20%` or `0.5%`, by default 100%; a time is `200ms` or `2s`, at most an hour.
    ///
    /// # Errors
    /// [`MisbehaveError`] names the option and the form that it should have.
    pub fn parse(
        fail: &[String],
        refuse: &[String],
        delay: Option<&str>,
        random: Arc<dyn Random>,
    ) -> Result<Self, MisbehaveError> {
        let mut read = Self::not_at_all(random);
        for option in fail {
            let (status, share) = split(option)?;
            let status = status.parse().ok().filter(|status| (300..=599).contains(status));
            read.fail.push((status.ok_or_else(|| wrong(option, "write a status from 300 to 599"))?, share));
        }
        for option in refuse {
            let (code, share) = split(option)?;
            let of_the_registry = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if code.is_empty() || code.len() > ErrorCode::LONGEST || !code.bytes().all(of_the_registry) {
                return Err(wrong(option, "write an error code such as invalid_audience"));
            }
            read.refuse.push((ErrorCode::from_wire(code), share));
        }
        if let Some(option) = delay {
            read.delay = time(option).ok_or_else(|| wrong(option, "write a time such as 200ms or 2s, up to 1h"))?;
        }
        let sum = |shares: &mut dyn Iterator<Item = u32>| shares.map(u64::from).sum::<u64>();
        if sum(&mut read.fail.iter().map(|(_, share)| *share)) > u64::from(ALL) {
            return Err(wrong(&fail.join(" "), "the shares add up to more than 100%"));
        }
        if sum(&mut read.refuse.iter().map(|(_, share)| *share)) > u64::from(ALL) {
            return Err(wrong(&refuse.join(" "), "the shares add up to more than 100%"));
        }
        Ok(read)
    }

    /// Returns the time for which each answer is held back.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// Draws the misbehaviour for one SET: first whether it fails, and then, if it does not, whether it is refused.
    #[must_use]
    pub fn draw(&self) -> Mischief {
        if let Some(status) = self.pick(&self.fail) {
            return Mischief::Fail(*status);
        }
        self.pick(&self.refuse).map_or(Mischief::None, |code| Mischief::Refuse(code.clone()))
    }

    fn pick<'a, T>(&self, shares: &'a [(T, u32)]) -> Option<&'a T> {
        if shares.is_empty() {
            return None;
        }
        let drawn = u32::try_from(self.random.below(u64::from(ALL))).unwrap_or(ALL);
        let mut end = 0;
        shares
            .iter()
            .find(|(_, share)| {
                end += share;
                drawn < end
            })
            .map(|(what, _)| what)
    }
}

impl std::fmt::Debug for Misbehave {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Misbehave")
            .field("fail", &self.fail)
            .field("refuse", &self.refuse)
            .field("delay", &self.delay)
            .finish_non_exhaustive()
    }
}

fn wrong(option: &str, why: &'static str) -> MisbehaveError {
    MisbehaveError { option: setgate_telemetry::clean(option, 80), why }
}

fn split(option: &str) -> Result<(&str, u32), MisbehaveError> {
    match option.split_once(':') {
        None => Ok((option, ALL)),
        Some((what, share)) => {
            let share = parts(share).ok_or_else(|| wrong(option, "write the share as a percentage such as 20%"))?;
            Ok((what, share))
        }
    }
}

/// Parses a percentage with up to four decimals, in parts per million.
fn parts(text: &str) -> Option<u32> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.strip_suffix('%')?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    if !digits(whole) || !digits(decimals) || whole.len() > 3 || decimals.len() > 4 {
        return None;
    }
    let parts = whole.parse::<u32>().ok()? * 10_000 + format!("{decimals:0<4}").parse::<u32>().ok()?;
    (parts <= ALL).then_some(parts)
}

fn time(text: &str) -> Option<Duration> {
    duration::parse(text).ok().filter(|delay| *delay <= Duration::from_secs(3600))
}

#[cfg(test)]
mod tests {
    use setgate_clock::manual::SeededRandom;

    use super::*;

    fn parse(fail: &[&str], refuse: &[&str], delay: Option<&str>) -> Result<Misbehave, MisbehaveError> {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Misbehave::parse(&own(fail), &own(refuse), delay, SeededRandom::new(7))
    }

    fn draws(misbehave: &Misbehave, what: &Mischief) -> usize {
        (0..10_000).filter(|_| misbehave.draw() == *what).count()
    }

    #[test]
    fn the_shares_come_out() {
        let misbehave = parse(&["503:20%", "429:10%"], &["invalid_audience:50%"], Some("200ms")).unwrap();
        assert_eq!(misbehave.delay(), Duration::from_millis(200));
        for (what, expected) in [
            (Mischief::Fail(503), 2000),
            (Mischief::Fail(429), 1000),
            (Mischief::Refuse(ErrorCode::InvalidAudience), 3500),
            (Mischief::None, 3500),
        ] {
            assert!(draws(&misbehave, &what).abs_diff(expected) < 300, "{what:?}");
        }
    }

    #[test]
    fn without_a_share_it_is_always_and_with_none_never() {
        assert_eq!(draws(&parse(&["500"], &[], None).unwrap(), &Mischief::Fail(500)), 10_000);
        assert_eq!(draws(&parse(&["500:0%"], &[], None).unwrap(), &Mischief::None), 10_000);
        assert_eq!(draws(&parse(&[], &[], None).unwrap(), &Mischief::None), 10_000);
        let own = parse(&[], &["my_own_code"], None).unwrap();
        assert_eq!(own.draw(), Mischief::Refuse(ErrorCode::Other("my_own_code".into())));
    }

    #[test]
    fn percentages_have_decimals() {
        for (text, expected) in [
            ("20%", Some(200_000)),
            ("0.5%", Some(5000)),
            ("100%", Some(ALL)),
            ("0.0001%", Some(1)),
            ("33.3333%", Some(333_333)),
        ] {
            assert_eq!(parts(text), expected, "{text}");
        }
        for text in ["", "%", "20", "100.1%", "101%", "-1%", "1e1%", ".5%", "5.%", "0.00001%", "١%"] {
            assert_eq!(parts(text), None, "{text}");
        }
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        for (fail, refuse, delay) in [
            (&["200"][..], &[][..], None),
            (&["503:20"], &[], None),
            (&["x:20%"], &[], None),
            (&["503:60%", "500:60%"], &[], None),
            (&[], &["invalid audience"], None),
            (&[], &[":10%"], None),
            (&[], &["a:70%", "b:70%"], None),
            (&[], &[], Some("200")),
            (&[], &[], Some("2h")),
            (&[], &[], Some("-1s")),
            (&[], &[], Some("3601s")),
        ] {
            assert!(parse(fail, refuse, delay).is_err(), "{fail:?} {refuse:?} {delay:?}");
        }
    }
}
