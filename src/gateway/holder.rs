//! The process that listens at an address, as far as the system shows it.

use std::{fs, net::SocketAddr};

/// A process that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pub(crate) name: String,
}

impl Holder {
    /// Finds the process that listens at this port; `None` if there is none or it cannot be seen, as with another
    /// user's.
    pub(crate) fn of(address: SocketAddr) -> Option<Self> {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
        let inode = tables.iter().find_map(|table| inode(&fs::read_to_string(table).ok()?, address.port()))?;
        let socket = format!("socket:[{inode}]");
        fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let mut open = fs::read_dir(process.path().join("fd")).ok()?.flatten();
            open.any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == &*socket)).then(|| {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                Self { pid, name: setgate_telemetry::clean(name.trim(), 32) }
            })
        })
    }

    /// Returns whether the process has the same program name as this one.
    pub(crate) fn is_alike(&self) -> bool {
        fs::read_to_string("/proc/self/comm").is_ok_and(|own| setgate_telemetry::clean(own.trim(), 32) == self.name)
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

/// Returns the inode of the socket that listens at a port, from the system's table of TCP sockets.
fn inode(table: &str, port: u16) -> Option<String> {
    let port = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _, state) = (fields.next()?, fields.next()?, fields.next()?);
        // The state 0A is LISTEN.
        if state == "0A" && local.ends_with(&port) { fields.nth(5).map(str::to_owned) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let holder = Holder::of(address).unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert!(holder.is_alike(), "{holder}");
        drop(listener);
        assert_eq!(Holder::of(address), None);
    }
}
