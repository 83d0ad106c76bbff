//! The figure of one event for thousands of WebSocket subscribers, of tokens that are signed already.
//!
//! The gateway signs when it hands over, so its subscribers take their SETs once, acknowledge nothing, lose their
//! connections and come again: the SETs that they get then are from the seal cache. This second hand-over is what is
//! measured.

use std::{sync::Arc, time::Duration};

use crate::{
    Bench, BenchError, Figure, Promise, Shape,
    crowds::{Crowd, Way},
    end_to_end::count,
    event::TYPE,
    fan_out::{Far, Passed, Side},
    load::Client,
    measure::{cpu_time, rate},
    responder::Made,
    sink::Run,
};

/// The least ratio of the second hand-over to frames that are built already.
const LEAST: f64 = 0.6;
/// The pause between the subscribers that leave and those that come.
const REST: Duration = Duration::from_secs(1);

/// Measures the second hand-over, in turn with a bare loop of frames that are built already.
///
/// # Errors
/// Fails if a subscriber does not get what it is owed, or a token was signed meanwhile.
pub(crate) async fn measure<'a>(
    bench: &Bench<'_>,
    client: &Client,
    ours: &mut Side<'a>,
    theirs: &mut Side<'a>,
    from: usize,
) -> Result<Figure, BenchError> {
    let rounds = bench.plan.scale.of(1, 3, 5);
    let (mut again, mut bare) = (Passed::default(), Passed::default());
    for round in 0..rounds {
        let number = from + round;
        for (side, passed, name) in [(&mut *theirs, &mut bare, "bare frames"), (&mut *ours, &mut again, "gateway")] {
            bench.watch.step(&format!("handed over again, {name}, round {} of {rounds}", round + 1));
            side.hand_over_once(bench, client, number).await?;
            side.hand_over_again(bench, client, number, passed).await?;
            bench.clock.pause(REST).await;
        }
    }
    let name = format!("one event for {} subscribers, signed before", ours.asks.len());
    let each = |time: Duration, passed: &Passed| time.as_secs_f64() * 1e6 / passed.sets.max(1) as f64;
    Ok(Figure::new(Shape::FanOut, name, rate(again.sets, again.time), "SETs/s")
        .beside("a bare loop of built frames", rate(bare.sets, bare.time), Some(Promise::AtLeast(LEAST)))
        .note(format!(
            "{} events, handed over once and not acknowledged; subscribers come again, and the time is from their credit until the last \
             acknowledgement is counted; no signature was made meanwhile, {} were verified; {:.0} ms an event until the last \
             acknowledgement is written; CPU of a SET: gateway {:.0} µs, subscribers {:.0} µs; bare: {:.0} and {:.0} µs, {:.0} ms",
            again.events,
            again.verified,
            again.written.as_secs_f64() * 1e3 / again.events.max(1) as f64,
            each(again.server, &again),
            each(again.receivers, &again),
            each(bare.server, &bare),
            each(bare.receivers, &bare),
            bare.written.as_secs_f64() * 1e3 / bare.events.max(1) as f64,
        )))
}

impl Side<'_> {
    /// Lets the subscribers come, take the event and leave without an acknowledgement; the bare loop builds its frames
    /// instead.
    async fn hand_over_once(&mut self, bench: &Bench<'_>, client: &Client, number: usize) -> Result<(), BenchError> {
        let subscribers = self.asks.len();
        match &mut self.far {
            Far::Bare(bare, _) => bare.build(client, Made::Frames, number, subscribers).await,
            Far::Gateway(_, target, maker) => {
                let arrived = Arc::new(Run::after(subscribers, u32::try_from(number).unwrap_or(u32::MAX)));
                let _crowd = Crowd::gather(bench, Way::Silent, self.asks.iter().cloned(), &arrived).await?;
                target.events(maker.line_in(0, &[TYPE]), 1).await?;
                arrived.all(count(subscribers), &bench.clock).await?;
                arrived.check(count(subscribers))
            }
        }
    }

    async fn hand_over_again(
        &mut self,
        bench: &Bench<'_>,
        client: &Client,
        number: usize,
        passed: &mut Passed,
    ) -> Result<(), BenchError> {
        bench.clock.pause(REST).await;
        let all = count(self.asks.len());
        let arrived = Arc::new(Run::after(self.asks.len(), u32::try_from(number).unwrap_or(u32::MAX)));
        let mut crowd = Crowd::gather(bench, Way::Patient, self.asks.iter().cloned(), &arrived).await?;
        bench.clock.pause(REST).await;
        let (sealed, settled) = self.counters(client).await?;
        let (pid, own) = (self.far.pid(), std::process::id());
        let (server, receivers) = (cpu_time(pid)?, cpu_time(own)?);
        let began = bench.clock.now();
        crowd.start_taking();
        crowd.acknowledged(bench, all).await?;
        passed.written += bench.clock.since(began);
        match &self.far {
            Far::Gateway(gateway, ..) => gateway.settled(bench, client, settled + all).await?,
            Far::Bare(bare, _) => bare.go(client).await?,
        }
        passed.time += bench.clock.since(began);
        passed.server += cpu_time(pid)?.saturating_sub(server);
        passed.receivers += cpu_time(own)?.saturating_sub(receivers);
        arrived.check(all)?;
        let signed = self.counters(client).await?.0.saturating_sub(sealed);
        if signed > 0 {
            return Err(BenchError::Miscounted(format!("no figure: {signed} of {all} SETs were signed once more")));
        }
        passed.verified += self.far.verified(client, &arrived).await?;
        passed.events += 1;
        passed.sets += all;
        Ok(())
    }

    /// Returns the numbers of SETs that the gateway has sealed and that are settled in its store.
    async fn counters(&self, client: &Client) -> Result<(u64, u64), BenchError> {
        let Far::Gateway(gateway, ..) = &self.far else { return Ok((0, 0)) };
        let page = gateway.metrics(client).await?;
        Ok((page.sum("setgate_sets_sealed_total") as u64, page.sum("setgate_store_deliveries_settled_total") as u64))
    }
}
