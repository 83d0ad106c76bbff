//! The address guard, which decides on the targets of requests (promise P8, hardening H31).
//!
//! A URL is checked before anything is done with it, and every address, whether it is written in the URL or comes from
//! a resolver, once more at the moment of connecting. The connection goes to the checked address and nowhere else.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Arc, PoisonError, RwLock},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

use crate::OutboundConfig;

/// The ports that need no permission.
const PORTS: [u16; 2] = [443, 8443];

/// The targets that one stream's operator allows beyond those of `[net]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GuardPolicy {
    /// Networks that are allowed although they are not global: on any port, and over `http` with `allow_http`.
    pub allow_networks: Vec<IpNet>,
    /// Whether `http` URLs are allowed to the allowed networks.
    pub allow_http: bool,
    /// Ports that are allowed beside 443 and 8443.
    pub allow_ports: Vec<u16>,
}

/// The addresses that the gateway itself listens on, which are never targets, whatever the operator allows (hardening
/// H6).
#[derive(Clone, Debug, Default)]
pub struct OwnAddresses(Arc<RwLock<Vec<SocketAddr>>>);

impl OwnAddresses {
    /// Creates an empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a listener by the address it is bound to. An unspecified address stands for every address of the machine.
    pub fn add(&self, listener: SocketAddr) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    fn contain(&self, ip: IpAddr, port: u16) -> bool {
        let own = self.0.read().unwrap_or_else(PoisonError::into_inner);
        own.iter().filter(|own| own.port() == port).any(|own| match own.ip().to_canonical() {
            own if own.is_unspecified() => is_of_this_machine(ip),
            own => own == ip,
        })
    }
}

/// Returns whether an address belongs to this machine: no other can be bound.
fn is_of_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

/// A refusal of the guard. The text names the option, and the line to write where that would allow the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The rules of `[net]` and of one stream, combined.
#[derive(Clone, Debug)]
pub(crate) struct AddressGuard {
    own: OwnAddresses,
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    http: bool,
    ports: Vec<u16>,
}

impl AddressGuard {
    pub(crate) fn new(config: &OutboundConfig, policy: &GuardPolicy, own: OwnAddresses) -> Self {
        Self {
            own,
            allow: config.allow_networks.iter().chain(&policy.allow_networks).copied().collect(),
            deny: config.deny_networks.clone(),
            http: config.allow_http || policy.allow_http,
            ports: config.allow_ports.iter().chain(&policy.allow_ports).copied().collect(),
        }
    }

    /// Returns whether the address is a listener of the gateway itself.
    pub(crate) fn is_own(&self, address: SocketAddr) -> bool {
        self.own.contain(address.ip().to_canonical(), address.port())
    }

    /// Checks a URL, and its host if that is an address. A name is checked when it is resolved.
    pub(crate) fn url(&self, url: &Url) -> Result<(), Refused> {
        let secure = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(Refused("only `https` URLs are allowed".to_owned())),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused("a URL with a user name or password is not allowed".to_owned()));
        }
        if url.fragment().is_some() {
            return Err(Refused("a URL with a fragment is not allowed".to_owned()));
        }
        let port = url.port_or_known_default().unwrap_or_default();
        let ip = match url.host() {
            Some(Host::Ipv4(ip)) => IpAddr::V4(ip),
            Some(Host::Ipv6(ip)) => IpAddr::V6(ip),
            // The addresses of the name may turn out to lie in an allowed network, if there is one.
            Some(Host::Domain(name)) if !name.is_empty() => {
                return self.scheme_and_port(secure, port, !self.allow.is_empty());
            }
            Some(Host::Domain(_)) | None => return Err(Refused("a URL without a host is not allowed".to_owned())),
        };
        self.address(secure, ip, port)
    }

    /// Checks an address that a connection is about to be opened to.
    pub(crate) fn address(&self, secure: bool, ip: IpAddr, port: u16) -> Result<(), Refused> {
        let ip = ip.to_canonical();
        let forms: Vec<IpAddr> = std::iter::once(ip).chain(embedded(ip).map(IpAddr::V4)).collect();
        if forms.iter().any(|ip| self.own.contain(*ip, port)) {
            return Err(Refused(format!("{ip} port {port} is a listener of this gateway: it is never a target")));
        }
        if let Some(net) = self.deny.iter().find(|net| forms.iter().any(|ip| net.contains(ip))) {
            return Err(Refused(format!("{ip} lies in {net}, which `deny_networks` in `[net]` refuses")));
        }
        let mut allowed = true;
        for form in forms {
            if METADATA.contains(&form) {
                if !self.allow.iter().any(|net| net.prefix_len() == net.max_prefix_len() && net.contains(&form)) {
                    return Err(refusal(form, "an address of the cloud platform"));
                }
            } else if !self.allow.iter().any(|net| net.contains(&form)) {
                if let Some(what) = special(form) {
                    return Err(refusal(form, what));
                }
                allowed = false;
            }
        }
        self.scheme_and_port(secure, port, allowed)
    }

    fn scheme_and_port(&self, secure: bool, port: u16, allowed: bool) -> Result<(), Refused> {
        let plain_is_fine = allowed && self.http;
        if !(secure || plain_is_fine) {
            return Err(Refused(
                "`http` is not allowed: use `https`, or set `allow_http = true` and add the target to `allow_networks`"
                    .to_owned(),
            ));
        }
        if !(allowed || PORTS.contains(&port) || self.ports.contains(&port)) {
            return Err(Refused(format!(
                "port {port} is not allowed: add it to `allow_ports`, for example `allow_ports = [{port}]`"
            )));
        }
        Ok(())
    }
}

fn refusal(ip: IpAddr, what: &str) -> Refused {
    let host = IpNet::from(ip);
    Refused(format!(
        "{ip} is {what}: to allow it, write `allow_networks = [\"{host}\"]` in `[net]` or in the stream's grant"
    ))
}

/// Addresses at which a cloud platform answers its machines. A network around one does not allow it; its own address
/// does.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Returns the IPv4 address that an IPv6 address stands for: compatible, translated, NAT64, 6to4, Teredo.
fn embedded(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match [a, b, c, d, e, f] {
        // ::1 and :: are themselves.
        [0, 0, 0, 0, 0, 0] if g != 0 => v4(g, h),
        [0, 0, 0, 0, 0xffff, 0] | [0x64, 0xff9b, 0, 0, 0, 0] => v4(g, h),
        // RFC 8215: any of the layouts of RFC 6052 may be in use below the local prefix; /96 is the usual one.
        [0x64, 0xff9b, 1, ..] => v4(g, h),
        [0x2002, high, low, ..] => v4(high, low),
        [0x2001, 0, ..] => v4(!g, !h),
        _ => None,
    }
}

/// Returns a description of the special use that keeps an address from being a global one.
fn special(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => V4.iter().find(|(net, _)| net.contains(&ip)).map(|(_, what)| *what),
        IpAddr::V6(ip) => match V6.iter().find(|(net, _)| net.contains(&ip)) {
            Some((_, what)) => Some(*what),
            None if NAT64.contains(&ip) || GLOBAL_UNICAST.contains(&ip) => None,
            None => Some("no global unicast address"),
        },
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

const GLOBAL_UNICAST: Ipv6Net = v6(0x2000, 0, 0, 3);
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 0, 96);

/// IANA's special-purpose IPv4 addresses that are not globally reachable, and a few that receivers never have.
const V4: [(Ipv4Net, &str); 16] = [
    (v4(0, 0, 0, 0, 8), "an address of \"this network\""),
    (v4(10, 0, 0, 0, 8), "a private address"),
    (v4(100, 64, 0, 0, 10), "a carrier's shared address"),
    (v4(127, 0, 0, 0, 8), "a loopback address"),
    (v4(169, 254, 0, 0, 16), "a link-local address"),
    (v4(172, 16, 0, 0, 12), "a private address"),
    (v4(192, 0, 0, 0, 24), "a protocol assignment"),
    (v4(192, 0, 2, 0, 24), "a documentation address"),
    (v4(192, 88, 99, 0, 24), "a 6to4 relay"),
    (v4(192, 168, 0, 0, 16), "a private address"),
    (v4(198, 18, 0, 0, 15), "a benchmarking address"),
    (v4(198, 51, 100, 0, 24), "a documentation address"),
    (v4(203, 0, 113, 0, 24), "a documentation address"),
    (v4(224, 0, 0, 0, 4), "a multicast address"),
    (v4(255, 255, 255, 255, 32), "the broadcast address"),
    (v4(240, 0, 0, 0, 4), "a reserved address"),
];

/// IANA's special-purpose IPv6 addresses, inside and outside the global unicast space.
const V6: [(Ipv6Net, &str); 13] = [
    (v6(0, 0, 0, 16), "an unspecified, loopback or IPv4-compatible address"),
    (v6(0x64, 0xff9b, 1, 48), "a local-use translation address"),
    (v6(0x100, 0, 0, 64), "a discard-only address"),
    (v6(0x2001, 0, 0, 32), "a Teredo address"),
    (v6(0x2001, 0, 0, 23), "a protocol assignment"),
    (v6(0x2001, 0xdb8, 0, 32), "a documentation address"),
    (v6(0x2002, 0, 0, 16), "a 6to4 address"),
    (v6(0x3fff, 0, 0, 20), "a documentation address"),
    (v6(0x5f00, 0, 0, 16), "a segment-routing address"),
    (v6(0xfc00, 0, 0, 7), "a unique local address"),
    (v6(0xfe80, 0, 0, 10), "a link-local address"),
    (v6(0xfec0, 0, 0, 10), "a site-local address"),
    (v6(0xff00, 0, 0, 8), "a multicast address"),
];

#[cfg(test)]
mod tests;
