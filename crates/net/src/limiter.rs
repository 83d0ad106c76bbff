//! The state that all connections of a listener share: its places, their holders, and the limits that end a connection.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use setgate_clock::Clock;
use tokio::sync::Notify;

use crate::{
    Limits,
    connection::{Connection, End, Rules},
    crowd::{Block, Crowd},
    observe::{Limit, OfListener},
};

/// The interval at which connections are checked; a time limit takes effect at most this late.
const LOOK: Duration = Duration::from_secs(1);
/// The shortest time between two warnings in the log that callers are kept out.
const TELL: Duration = Duration::from_secs(60);

/// The places of a listener.
///
/// A caller that has shown no credential has its place on trial: when places run out, the next caller gets it.
/// Unauthenticated callers can therefore displace only each other.
pub(crate) struct ConnectionLimiter {
    rules: Arc<Rules>,
    places: Mutex<Places>,
    /// Wakes those who wait for a place whenever the places have changed.
    freed: Notify,
    came: Notify,
}

#[derive(Default)]
struct Places {
    closed: bool,
    last: u64,
    taken: usize,
    of_blocks: HashMap<Block, usize>,
    of_clients: HashMap<Arc<str>, usize>,
    crowd: Crowd,
    permits: HashMap<u64, Entry>,
    /// Callers kept out or displaced since the last warning in the log, by limit, and the time of that warning.
    untold: BTreeMap<Limit, u64>,
    warned_at: Option<Duration>,
}

struct Entry {
    connection: Arc<Connection>,
    block: Block,
    client: Option<Arc<str>>,
    away: usize,
    permit_state: PermitState,
}

/// The kind that a connection counts as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PermitState {
    Unauthenticated,
    Authenticated,
    /// The connection has left its place while its request waits.
    Away,
    /// The connection has no place any more, and ends.
    Gone,
}

impl ConnectionLimiter {
    pub(crate) fn new(limits: &Limits, clock: Arc<dyn Clock>, observed: OfListener) -> Arc<Self> {
        let mut limits = limits.clone();
        limits.connections = limits.connections.max(1);
        limits.unauthenticated_connections = limits.unauthenticated_connections.max(1);
        let rules = Arc::new(Rules { limits, clock, observed });
        Arc::new(Self { rules, places: Mutex::default(), freed: Notify::new(), came: Notify::new() })
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is a place for the next caller: a free one, or that of a connection that has shown no
    /// credential.
    pub(crate) async fn vacancy(&self) {
        self.until(|places| places.taken < self.rules.limits.connections || !places.crowd.is_empty()).await;
    }

    /// Closes the places to newcomers and waits until all are free. A connection that has left its place ends instead
    /// of coming back.
    pub(crate) async fn empty(&self) {
        self.places().closed = true;
        self.until(|places| places.taken == 0).await;
    }

    async fn until(&self, so: impl Fn(&Places) -> bool) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Enabled before the check, so that a place freed after it is not missed.
            freed.as_mut().enable();
            if so(&self.places()) {
                return;
            }
            freed.await;
        }
    }

    /// Admits an accepted connection as soon as there is a place, which it has until it is [closed](Self::close).
    ///
    /// # Errors
    /// The limit that keeps the connection out.
    pub(crate) async fn admit(&self, ip: IpAddr) -> Result<(u64, Arc<Connection>), Limit> {
        loop {
            match self.try_admit(ip) {
                // The connection that had a place on trial at the time of `accept` has shown a credential since.
                Err(Limit::Connections) => self.vacancy().await,
                Err(limit) => {
                    self.rules.observed.refused(limit);
                    *self.places().untold.entry(limit).or_default() += 1;
                    return Err(limit);
                }
                Ok(admitted) => return Ok(admitted),
            }
        }
    }

    fn try_admit(&self, ip: IpAddr) -> Result<(u64, Arc<Connection>), Limit> {
        let block = Block::of(ip);
        let mut places = self.places();
        places.last += 1;
        let number = places.last;
        let permit_state = self.enter(&mut places, block, None, true)?;
        let connection = Connection::new(self.rules.clone());
        let entry =
            Entry { connection: connection.clone(), block, client: None, away: 0, permit_state: PermitState::Gone };
        places.permits.insert(number, entry);
        self.stand(&mut places, number, permit_state);
        drop(places);
        self.rules.observed.accepted();
        self.came.notify_one();
        Ok((number, connection))
    }

    /// Finds a place for a connection. A newcomer, or a client that has a share left, displaces another where none is
    /// free.
    ///
    /// # Errors
    /// The limit that keeps the connection out.
    fn enter(
        &self,
        places: &mut Places,
        block: Block,
        client: Option<&Arc<str>>,
        newcomer: bool,
    ) -> Result<PermitState, Limit> {
        let known = client.is_some_and(|client| self.has_share(places, client));
        let pushes = |number: &u64| (newcomer || known).then_some(*number);
        if places.closed {
            return Err(Limit::Drain);
        }
        if places.taken >= self.rules.limits.connections && places.crowd.is_empty() {
            return Err(Limit::Connections);
        }
        if places.of_blocks.get(&block).is_some_and(|count| *count >= self.rules.limits.connections_per_address) {
            let oldest = places.crowd.oldest_of(block).as_ref().and_then(pushes).ok_or(Limit::PerAddress)?;
            self.displace(places, oldest, Limit::PerAddress);
        }
        let full = if !known && places.crowd.len() >= self.rules.limits.unauthenticated_connections {
            Some(Limit::Unauthenticated)
        } else {
            (places.taken >= self.rules.limits.connections).then_some(Limit::Connections)
        };
        if let Some(limit) = full {
            let first = places.crowd.first_to_go().as_ref().and_then(pushes).ok_or(limit)?;
            self.displace(places, first, limit);
        }
        Ok(if known { PermitState::Authenticated } else { PermitState::Unauthenticated })
    }

    fn has_share(&self, places: &Places, client: &Arc<str>) -> bool {
        places.of_clients.get(client).is_none_or(|count| *count < self.rules.limits.connections_per_client)
    }

    fn displace(&self, places: &mut Places, number: u64, limit: Limit) {
        self.stand(places, number, PermitState::Gone);
        *places.untold.entry(limit).or_default() += 1;
        if let Some(entry) = places.permits.get(&number) {
            entry.connection.end(End::Cut, limit);
        }
    }

    /// Counts a connection as another kind from now on.
    fn stand(&self, places: &mut Places, number: u64, permit_state: PermitState) {
        let Places { taken, of_blocks, of_clients, crowd, permits, .. } = places;
        let Some(Entry { block, client, permit_state: present, .. }) = permits.get_mut(&number) else { return };
        let before = std::mem::replace(present, permit_state);
        match before {
            PermitState::Unauthenticated => crowd.remove(*block, number),
            PermitState::Authenticated => client.iter().for_each(|client| less(of_clients, client)),
            PermitState::Away | PermitState::Gone => {}
        }
        match permit_state {
            PermitState::Unauthenticated => crowd.insert(*block, number),
            PermitState::Authenticated => {
                client.iter().for_each(|client| *of_clients.entry(client.clone()).or_default() += 1);
            }
            PermitState::Away | PermitState::Gone => {}
        }
        match (before.has_place(), permit_state.has_place()) {
            (false, true) => {
                *taken += 1;
                *of_blocks.entry(*block).or_default() += 1;
            }
            (true, false) => {
                *taken = taken.saturating_sub(1);
                less(of_blocks, block);
            }
            _ => {}
        }
        self.rules.observed.stands(before.kind(), permit_state.kind());
        self.freed.notify_waiters();
    }

    /// Records that the connection has shown a credential of `client`: its place is safe from now on, unless the client
    /// already has more than its share of them.
    pub(crate) fn vouch(&self, number: u64, client: &str) {
        let client: Arc<str> = client.into();
        let mut places = self.places();
        let share = self.has_share(&places, &client);
        let Some(entry) = places.permits.get_mut(&number).filter(|entry| entry.client.is_none()) else { return };
        entry.client = Some(client);
        if share && entry.permit_state == PermitState::Unauthenticated {
            self.stand(&mut places, number, PermitState::Authenticated);
        }
    }

    /// Gives the connection's place to others until [`come_back`](Self::come_back).
    pub(crate) fn leave(&self, number: u64) {
        let mut places = self.places();
        let Some(entry) = places.permits.get_mut(&number) else { return };
        entry.away += 1;
        if entry.permit_state.has_place() {
            self.stand(&mut places, number, PermitState::Away);
        }
    }

    /// Gives the connection a place again if there is one; otherwise the connection ends after its answers.
    pub(crate) fn come_back(&self, number: u64) {
        let mut places = self.places();
        let Some(entry) = places.permits.get_mut(&number) else { return };
        entry.away = entry.away.saturating_sub(1);
        if entry.away > 0 || entry.permit_state != PermitState::Away {
            return;
        }
        let (connection, block, client) = (entry.connection.clone(), entry.block, entry.client.clone());
        match self.enter(&mut places, block, client.as_ref(), false) {
            Ok(permit_state) => self.stand(&mut places, number, permit_state),
            Err(limit) => {
                self.stand(&mut places, number, PermitState::Gone);
                connection.end(End::Soon, limit);
            }
        }
    }

    /// Removes a closed connection.
    pub(crate) fn close(&self, number: u64) {
        let mut places = self.places();
        self.stand(&mut places, number, PermitState::Gone);
        let entry = places.permits.remove(&number);
        drop(places);
        drop(entry);
    }

    /// Ends a connection that has shown no credential, if there is one, because the process has no file descriptor for
    /// the next caller.
    pub(crate) fn make_room(&self) {
        let mut places = self.places();
        if let Some(first) = places.crowd.first_to_go() {
            self.displace(&mut places, first, Limit::Descriptors);
        }
    }

    /// Ends every connection at once.
    pub(crate) fn cut(&self) {
        for entry in self.places().permits.values() {
            entry.connection.end(End::Cut, Limit::Drain);
        }
    }

    /// Ends connections whose time is over, for as long as the future is polled.
    pub(crate) async fn watch(&self) {
        loop {
            if self.places().permits.is_empty() {
                self.came.notified().await;
            }
            self.look();
            self.rules.clock.sleep(LOOK).await;
        }
    }

    fn look(&self) {
        let now = self.rules.now();
        let mut places = self.places();
        for entry in places.permits.values() {
            if let Some((end, limit)) = entry.connection.due(now) {
                entry.connection.end(end, limit);
            }
        }
        let quiet = places.warned_at.is_some_and(|at| now < at + TELL);
        if quiet || places.untold.is_empty() {
            return;
        }
        places.warned_at = Some(now);
        let untold = std::mem::take(&mut places.untold);
        drop(places);
        for (limit, connections) in untold {
            let (listener, limit) = (self.rules.observed.name(), limit.option());
            tracing::warn!(
                listener,
                limit,
                connections,
                "a limit keeps callers out: connections were refused, or ended for others"
            );
        }
    }
}

impl PermitState {
    const fn has_place(self) -> bool {
        matches!(self, Self::Unauthenticated | Self::Authenticated)
    }

    const fn kind(self) -> Option<&'static str> {
        match self {
            Self::Unauthenticated => Some("unauthenticated"),
            Self::Authenticated => Some("authenticated"),
            Self::Away => Some("waiting"),
            Self::Gone => None,
        }
    }
}

/// Decrements the count of `key`, and removes it at 0.
fn less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
