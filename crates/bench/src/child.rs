//! The gateway under test: the real program as a process of its own, with a folder of its own.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use setgate_jose::Algorithm;
use tempfile::TempDir;

use crate::{Bench, BenchError, link::Asks, load::Client};

/// The longest time for a start or an end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with configuration, store and secrets, in which the gateway can be started more than once.
pub(crate) struct Home {
    folder: TempDir,
    issuer: String,
    operator: String,
    token: String,
    /// The token of the receiver that may get the SETs of all streams, if there is one.
    receiver: String,
    /// The configuration without streams.
    text: String,
}

/// The `aud` of streams that name no other.
pub(crate) const AUDIENCE: &str = "https://sink.example";

/// A stream of the configuration.
pub(crate) struct Stream {
    pub(crate) id: String,
    audience: String,
    /// The delivery method with its terms.
    delivery: String,
    /// Further lines of the stream's section.
    pub(crate) more: String,
}

impl Stream {
    /// Returns a stream with push delivery.
    pub(crate) fn new(id: impl Into<String>, endpoint: impl Into<String>) -> Self {
        Self::pushed("push", id, endpoint)
    }

    /// Returns a stream that a method of this name delivers to an endpoint.
    pub(crate) fn pushed(method: &str, id: impl Into<String>, endpoint: impl Into<String>) -> Self {
        let delivery = format!("method = \"{method}\", endpoint_url = \"{}\"", endpoint.into());
        Self { id: id.into(), audience: AUDIENCE.to_owned(), delivery, more: String::new() }
    }

    /// Returns a stream whose receiver comes for its SETs, by a method of this name.
    pub(crate) fn visited(method: &str, id: impl Into<String>) -> Self {
        let delivery = format!("method = \"{method}\"");
        Self { id: id.into(), audience: AUDIENCE.to_owned(), delivery, more: String::new() }
    }

    /// Returns a stream whose method needs other terms than an endpoint.
    #[cfg(feature = "kafka")]
    pub(crate) fn carried(method: &str, id: impl Into<String>, terms: &str) -> Self {
        let delivery = format!("method = \"{method}\", {terms}");
        Self { id: id.into(), audience: AUDIENCE.to_owned(), delivery, more: String::new() }
    }

    /// Sets the audience of the stream.
    pub(crate) fn of(mut self, audience: impl Into<String>) -> Self {
        self.audience = audience.into();
        self
    }

    /// Adds a line to the stream's section.
    pub(crate) fn with(mut self, line: &str) -> Self {
        self.more.push_str(line);
        self.more.push('\n');
        self
    }
}

#[derive(Deserialize)]
struct Minted {
    token: String,
    toml: String,
}

impl Home {
    /// Creates a folder with a configuration: one issuer, one producer, and these streams.
    ///
    /// # Errors
    /// Fails if the folder cannot be written, or the program does not create a token.
    pub(crate) fn make(bench: &Bench<'_>, algorithm: Algorithm, streams: &[Stream]) -> Result<Self, BenchError> {
        let plan = bench.plan;
        let folder = tempfile::Builder::new().prefix("setgate-bench-").tempdir_in(&plan.folder);
        let folder = folder.map_err(BenchError::failed("no folder for the gateway"))?;
        let (world, operator) = two_free_ports()?;
        let issuer = format!("http://127.0.0.1:{world}");
        let Minted { token, toml } = minted(&plan.program, "producers", &issuer, &[])?;
        let text = format!(
            "[gateway]\ndev = true\n\n[listen]\npublic = \"127.0.0.1:{world}\"\nadmin = \"127.0.0.1:{operator}\"\n\n\
             [store]\npath = \"store\"\n\n[secrets]\nfolder = \"secrets\"\n\n\
             [[issuers]]\nurl = \"{issuer}\"\nalgorithms = [\"{algorithm}\"]\n\n{toml}\n"
        );
        let operator = format!("http://127.0.0.1:{operator}");
        let home = Self { folder, issuer, operator, token, receiver: String::new(), text };
        home.declare(streams)?;
        Ok(home)
    }

    /// Creates such a folder with a receiver that may get the SETs of all streams, and with listeners for `visitors`
    /// sessions from one address.
    ///
    /// # Errors
    /// Fails if the folder cannot be written, or the program does not create a token.
    pub(crate) fn open_to(
        bench: &Bench<'_>,
        algorithm: Algorithm,
        streams: &[Stream],
        visitors: usize,
    ) -> Result<Self, BenchError> {
        let mut home = Self::make(bench, algorithm, &[])?;
        let Minted { token, toml } = minted(&bench.plan.program, "receivers", &home.issuer, &["--all-streams"])?;
        let connections = visitors + 1_000;
        home.receiver = token;
        home.text.push_str(&format!(
            "\n[listen.limits]\nconnections = {connections}\nconnections_per_address = {connections}\n\
             unauthenticated_connections = {connections}\nconnections_per_client = {connections}\n\n\
             [sessions]\nconnections = {connections}\nper_receiver = {connections}\n\n{toml}\n"
        ));
        home.declare(streams)?;
        Ok(home)
    }

    /// Adds sections to the configuration; streams are declared afterwards.
    #[cfg(feature = "kafka")]
    pub(crate) fn with(mut self, sections: &str) -> Self {
        self.text.push('\n');
        self.text.push_str(sections);
        self
    }

    /// Returns the place at which the receiver asks for a stream's SETs.
    ///
    /// # Errors
    /// Fails if the issuer's URL has no address.
    pub(crate) fn asks(&self, method: &str, stream: &str) -> Result<Asks, BenchError> {
        let address = self.issuer.strip_prefix("http://").and_then(|address| address.parse().ok());
        let address = address.ok_or_else(|| BenchError::Failed(format!("{} has no address", self.issuer)))?;
        Ok(Asks { address, path: format!("/{method}/{stream}"), token: self.receiver.clone() })
    }

    /// Writes the configuration with these streams, which is in force from the next start.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    pub(crate) fn declare(&self, streams: &[Stream]) -> Result<(), BenchError> {
        let mut text = self.text.clone();
        for Stream { id, audience, delivery, more } in streams {
            let issuer = &self.issuer;
            text.push_str(&format!(
                "\n[[streams]]\nid = \"{id}\"\nissuer = \"{issuer}\"\naudience = \"{audience}\"\n{more}\
                 delivery = {{ {delivery} }}\n"
            ));
        }
        fs::write(self.folder.path().join("setgate.toml"), text)
            .map_err(BenchError::failed("the configuration cannot be written"))
    }

    /// Returns the folder of the gateway.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the URL of the issuer.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("gateway.log")
    }

    /// Starts the gateway and waits until it is ready.
    ///
    /// # Errors
    /// Fails if the gateway ends, or is not ready in time; the text has the end of its log.
    pub(crate) async fn start(&self, bench: &Bench<'_>, client: &Client) -> Result<Gateway<'_>, BenchError> {
        let failed = BenchError::failed;
        let log =
            File::options().create(true).append(true).open(self.log()).map_err(failed("the log cannot be written"))?;
        let began = bench.clock.now();
        let child = Command::new(&bench.plan.program)
            .args(["serve", "--init", "--force", "--config"])
            .arg(self.folder.path().join("setgate.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed("the log cannot be written"))?)
            .stderr(log)
            .spawn()
            .map_err(failed("the program cannot be started"))?;
        let mut gateway = Gateway { home: self, child, ready_after: Duration::ZERO };
        loop {
            let ready = client.get(&format!("{}/readyz", self.operator)).await;
            if ready.is_ok() {
                gateway.ready_after = bench.clock.since(began);
                return Ok(gateway);
            }
            let ended = gateway.child.try_wait().map_err(failed("the gateway cannot be watched"))?;
            if let Some(status) = ended {
                return Err(BenchError::Failed(format!("the gateway ended with {status}:\n{}", self.end_of_log())));
            }
            if bench.clock.since(began) > PATIENCE {
                return Err(BenchError::Failed(format!("the gateway is not ready:\n{}", self.end_of_log())));
            }
            bench.clock.pause(Duration::from_millis(5)).await;
        }
    }

    fn end_of_log(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
    }
}

/// A running gateway, which ends when the value is dropped.
pub(crate) struct Gateway<'a> {
    home: &'a Home,
    child: Child,
    /// The time from the start of the process until it was ready.
    pub(crate) ready_after: Duration,
}

impl Gateway<'_> {
    /// Returns the process of the gateway.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the URL at which events are put in.
    pub(crate) fn intake(&self) -> String {
        format!("{}/events", self.home.issuer)
    }

    /// Returns the URL of the issuer.
    pub(crate) fn issuer(&self) -> &str {
        &self.home.issuer
    }

    /// Returns the token of the producer.
    pub(crate) fn token(&self) -> &str {
        &self.home.token
    }

    /// Returns the published key set.
    ///
    /// # Errors
    /// Fails if it is not served.
    pub(crate) async fn jwks(&self, client: &Client) -> Result<Bytes, BenchError> {
        client.get(&format!("{}/jwks.json", self.home.issuer)).await
    }

    /// Returns the present metrics.
    ///
    /// # Errors
    /// Fails if they are not served.
    pub(crate) async fn metrics(&self, client: &Client) -> Result<Metrics, BenchError> {
        let text = client.get(&format!("{}/metrics", self.home.operator)).await?;
        Ok(Metrics(String::from_utf8_lossy(&text).into_owned()))
    }

    /// Waits until `count` deliveries are settled.
    ///
    /// # Errors
    /// Fails if they are not settled in time.
    pub(crate) async fn settled(&self, bench: &Bench<'_>, client: &Client, count: u64) -> Result<(), BenchError> {
        let began = bench.clock.now();
        loop {
            let settled = self.metrics(client).await?.sum("setgate_store_deliveries_settled_total");
            if settled >= count as f64 {
                return Ok(());
            }
            if bench.clock.since(began) > PATIENCE {
                return Err(BenchError::Miscounted(format!(
                    "no figure: {count} SETs arrived, only {settled} are settled"
                )));
            }
            bench.clock.pause(Duration::from_millis(2)).await;
        }
    }

    /// Ends the gateway in order.
    ///
    /// # Errors
    /// Fails if the gateway does not end in time, or not with success.
    pub(crate) async fn stop(mut self, bench: &Bench<'_>) -> Result<(), BenchError> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)
                .map_err(|error| BenchError::Failed(format!("the gateway cannot be ended: {error}")))?;
        }
        let began = bench.clock.now();
        while bench.clock.since(began) < PATIENCE {
            match self.child.try_wait().map_err(BenchError::failed("the gateway cannot be watched"))? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    return Err(BenchError::Failed(format!(
                        "the gateway ended with {status}:\n{}",
                        self.home.end_of_log()
                    )));
                }
                None => bench.clock.pause(Duration::from_millis(5)).await,
            }
        }
        Err(BenchError::Failed("the gateway does not end".into()))
    }
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A page of metrics.
pub(crate) struct Metrics(String);

impl Metrics {
    /// Returns the sum of a metric over all of its labels.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let value = |line: &str| {
            let rest = line.strip_prefix(name)?;
            (rest.starts_with([' ', '{'])).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok()).flatten()
        };
        self.0.lines().filter_map(value).sum()
    }
}

/// Lets the program create a token and the section of the configuration that goes with it.
fn minted(program: &Path, whose: &str, issuer: &str, more: &[&str]) -> Result<Minted, BenchError> {
    let made = Command::new(program)
        .args([whose, "new", "bench", "--issuer", issuer, "--json"])
        .args(more)
        .stdin(Stdio::null())
        .output()
        .map_err(BenchError::failed("the program cannot be started"))?;
    serde_json::from_slice(&made.stdout).map_err(|error| {
        let said = String::from_utf8_lossy(&made.stderr);
        BenchError::Failed(format!("`{whose} new` gives no token: {error} {}", said.trim()))
    })
}

pub(crate) fn two_free_ports() -> Result<(u16, u16), BenchError> {
    let failed = BenchError::failed;
    let open = || TcpListener::bind(("127.0.0.1", 0)).map_err(failed("no free port"));
    let (one, other) = (open()?, open()?);
    let port =
        |listener: &TcpListener| listener.local_addr().map(|address| address.port()).map_err(failed("no free port"));
    Ok((port(&one)?, port(&other)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_their_labels() {
        let page =
            Metrics("# TYPE a counter\na_total{x=\"1\"} 3\na_total{x=\"2\"} 4\na_total_more 9\nb 2.5\n".to_owned());
        assert!((page.sum("a_total") - 7.0).abs() < f64::EPSILON);
        assert!((page.sum("b") - 2.5).abs() < f64::EPSILON);
        assert!(page.sum("c").abs() < f64::EPSILON);
    }
}
