//! What one address may do: handshakes, failed authentications, connections; and what one user may: connections.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::limits::{
    Limit, RateLimiter,
    rate_limiter::memory::{MemoryLimiter, system_clock},
};
use model::User;
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;

use super::attempts::{Attempt, Failures};
use crate::{session::Socket, transport::Conn};

pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// So many addresses are remembered; more push out those that have done least.
pub(super) const ADDRESSES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(65_535);
/// Whoever has all the connections it may have is told to return after that.
const FULL: Duration = Duration::from_secs(5);

/// The limits of addresses and of users' connections at this gateway.
pub(crate) struct Addresses {
    rules: RwLock<Arc<Rules>>,
    connections: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

struct Rules {
    handshakes: Option<MemoryLimiter>,
    failures: Option<Arc<Failures>>,
    max_connections: usize,
}

impl Rules {
    fn new(config: &config::Limits) -> Self {
        let handshakes = Limit::new(config.handshakes_per_ip, MINUTE);
        Self {
            handshakes: handshakes.map(|limit| MemoryLimiter::new(limit, ADDRESSES, system_clock())),
            failures: Failures::new(config.auth_failures_per_ip),
            max_connections: config.connections_per_ip as usize,
        }
    }
}

/// A connection counted for its address, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    address: IpAddr,
    connections: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Addresses {
    pub(crate) fn new(config: &config::Limits) -> Self {
        Self {
            rules: RwLock::new(Arc::new(Rules::new(config))),
            connections: Arc::default(),
        }
    }

    /// From now on these limits hold; what was spent of those before is forgotten. Connections that were not counted
    /// before stay so.
    pub(crate) fn reload(&self, config: &config::Limits) {
        *self.rules.write() = Arc::new(Rules::new(config));
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read())
    }

    /// A handshake from `ip`: the place of its connection, if places are counted.
    ///
    /// # Errors
    /// When to come back: it has too many connections, handshakes or failed authentications behind it.
    pub(crate) fn handshake(&self, ip: IpAddr) -> Result<Option<Place>, Duration> {
        let address = whose(ip);
        let rules = self.rules();
        if let Some(failures) = &rules.failures {
            failures.are_few(address)?;
        }
        let place = self.place(address)?;
        check(rules.handshakes.as_ref(), address, 1)?;
        Ok(place)
    }

    /// A connection from `ip` enters namespaces again and again: each time counts as a handshake, which it might have
    /// made instead.
    ///
    /// # Errors
    /// When to try again.
    pub(crate) fn enters_again(&self, ip: IpAddr) -> Result<(), Duration> {
        check(self.rules().handshakes.as_ref(), whose(ip), 1)
    }

    /// Somebody at `ip` says who it is, in its turn among those there.
    ///
    /// # Errors
    /// When to come back: too much of what was said was wrong.
    pub(crate) async fn attempt(&self, ip: IpAddr) -> Result<Attempt, Duration> {
        let rules = self.rules();
        Attempt::begin(rules.failures.as_ref(), whose(ip)).await
    }

    fn place(&self, address: IpAddr) -> Result<Option<Place>, Duration> {
        let max = self.rules().max_connections;
        if max == 0 {
            return Ok(None);
        }
        let mut connections = self.connections.lock();
        let count = connections.entry(address).or_default();
        if *count >= max {
            return Err(FULL);
        }
        *count += 1;
        Ok(Some(Place {
            address,
            connections: Arc::clone(&self.connections),
        }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connections = self.connections.lock();
        if let Some(count) = connections.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.address);
            }
        }
    }
}

pub(super) fn check(limiter: Option<&MemoryLimiter>, address: IpAddr, cost: u32) -> Result<(), Duration> {
    let decision = limiter.and_then(|limiter| limiter.try_check(&key(address), cost));
    match decision {
        Some(Ok(decision)) if !decision.allowed => Err(decision.retry_after),
        // In memory nothing is ever away.
        Some(Ok(_) | Err(_)) | None => Ok(()),
    }
}

pub(super) fn key(address: IpAddr) -> String {
    address.to_string()
}

/// What counts somebody at `ip` who has no id that lasts: no user's id, since those have no control characters.
pub(crate) fn visitor(ip: IpAddr) -> String {
    format!("\u{1}{}", whose(ip))
}

/// Who has one address of IPv6 has the 2^64 of its network.
fn whose(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

/// Which connections users have here, where that is limited.
pub(crate) struct UserConnections {
    max: AtomicUsize,
    users: Mutex<HashMap<Box<str>, Sockets>>,
}

/// A user's sockets, each by its own place in memory and its connection's: the sockets of a connection share it.
type Sockets = SmallVec<[(usize, usize); 2]>;

impl UserConnections {
    pub(crate) fn new(config: &config::Limits) -> Self {
        Self {
            max: AtomicUsize::new(config.connections_per_user as usize),
            users: Mutex::default(),
        }
    }

    /// From now on this limit holds. Connections that were not counted before stay so.
    pub(crate) fn reload(&self, config: &config::Limits) {
        self.max
            .store(config.connections_per_user as usize, Ordering::Relaxed);
    }

    fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// Counts a socket's connection; `false`, and nothing is counted, when its user has too many others.
    pub(crate) fn enter(&self, socket: &Arc<Socket>) -> bool {
        self.count(socket, self.max())
    }

    /// Whether a user may have a socket on this connection.
    pub(crate) fn admits(&self, user: &User, conn: &Arc<Conn>) -> bool {
        let max = self.max();
        let users = self.users.lock();
        let sockets = users.get(user.id.as_str());
        max == 0 || sockets.is_none_or(|sockets| has_room(sockets, Arc::as_ptr(conn).addr(), max))
    }

    /// Counts the connection of a socket that was here before, was [let in](Self::admits) and has come back.
    pub(crate) fn come_back(&self, socket: &Arc<Socket>) {
        self.count(socket, usize::MAX);
    }

    fn count(&self, socket: &Arc<Socket>, max: usize) -> bool {
        if self.max() == 0 {
            return true;
        }
        let (own, conn) = places(socket);
        let mut users = self.users.lock();
        let sockets = users.entry(socket.user().id.as_str().into()).or_default();
        let enters = has_room(sockets, conn, max);
        if enters {
            sockets.push((own, conn));
        }
        enters
    }

    /// The socket is gone, whether it was counted or not.
    pub(crate) fn leave(&self, socket: &Arc<Socket>) {
        let (own, _) = places(socket);
        let id = socket.user().id.as_str();
        let mut users = self.users.lock();
        if let Some(sockets) = users.get_mut(id) {
            sockets.retain(|(other, _)| *other != own);
            if sockets.is_empty() {
                users.remove(id);
            }
        }
    }
}

fn has_room(sockets: &Sockets, conn: usize, max: usize) -> bool {
    let mut conns: SmallVec<[usize; 8]> = sockets.iter().map(|(_, conn)| *conn).collect();
    conns.sort_unstable();
    conns.dedup();
    conns.len() < max || conns.contains(&conn)
}

fn places(socket: &Arc<Socket>) -> (usize, usize) {
    (Arc::as_ptr(socket).addr(), Arc::as_ptr(socket.conn()).addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_of_ipv6_is_its_network() {
        assert_eq!(whose(ip("2001:db8:1:2:3:4:5:6")), ip("2001:db8:1:2::"));
        assert_eq!(whose(ip("::ffff:1.2.3.4")), ip("1.2.3.4"));
    }

    #[test]
    fn a_place_is_free_again_when_it_is_left() {
        let mut config = config::Config::for_tests(config::Role::Standalone).limits;
        config.connections_per_ip = 2;
        let addresses = Addresses::new(&config);
        let (one, _two) = (addresses.handshake(ip("::1")), addresses.handshake(ip("::1")));
        assert_eq!(addresses.handshake(ip("::1")).unwrap_err(), FULL);
        assert!(addresses.handshake(ip("1.2.3.4")).is_ok());
        drop(one);
        assert!(addresses.handshake(ip("::1")).is_ok());
    }

    #[tokio::test]
    async fn who_fails_too_often_is_asked_no_more() {
        let mut config = config::Config::for_tests(config::Role::Standalone).limits;
        config.auth_failures_per_ip = 3;
        let addresses = Addresses::new(&config);
        for _ in 0..3 {
            drop(addresses.attempt(ip("::1")).await.unwrap());
        }
        let wait = addresses.attempt(ip("::1")).await.err().unwrap();
        assert!(
            wait > Duration::from_secs(15) && wait <= Duration::from_secs(20),
            "{wait:?}"
        );
        assert!(addresses.handshake(ip("::1")).is_err());
        assert!(addresses.handshake(ip("1.2.3.4")).is_ok());
    }
}
