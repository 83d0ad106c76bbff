//! A gateway with a delivery method of its own: SETs are appended to a file, one per line.
//!
//! ```toml
//! [methods.spool]
//! folder = "/var/spool/setgate"
//!
//! [[streams]]
//! id = "archive"
//! issuer = "https://idp.example.com"
//! audience = "https://archive.example"
//! delivery = { method = "spool" }
//! ```
//!
//! `cargo run --example own_method -- serve --config setgate.toml` is the whole gateway, with one more method. Each
//! stream has a file of its own, named after it; a SET is acknowledged once it is on the disk.

use std::{io, path::PathBuf, process::ExitCode, sync::Arc};

use serde::Deserialize;
use setgate_delivery::{
    About, Cause, Channel, Closed, Consumer, Entry, Env, Fault, Form, Initiator, Json, Limits, Method, NoOptions,
    Options, Order, Outcome, Profile, Receipt, Redelivery, Scope, SealedSet, Subscription, Verdict, Window, drive,
};
use tokio::{fs::File, io::AsyncWriteExt as _};

/// `[methods.spool]`: the operator chooses the folder, and no stream can change it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Section {
    folder: PathBuf,
}

impl Default for Section {
    fn default() -> Self {
        Self { folder: PathBuf::from("spool") }
    }
}

impl Options for Section {}

struct Spool {
    folder: PathBuf,
}

setgate_delivery::register!(Spool);

impl Method for Spool {
    const ENTRY: Entry = Entry { name: "spool", uri: "urn:example:delivery:spool", aliases: &[] };
    type Section = Section;
    type Grant = NoOptions;
    type Terms = NoOptions;
    type Channel = SpoolChannel;

    async fn start(section: Section, _env: Env) -> Result<Self, Fault> {
        Ok(Self { folder: section.folder })
    }

    fn channel(self: &Arc<Self>, about: &About, _terms: NoOptions, _grant: NoOptions) -> Result<SpoolChannel, Fault> {
        // A stream's id has no separator in it, so it is a file name; `.` and `..` are folders and fail when they are
        // opened.
        Ok(SpoolChannel {
            folder: self.folder.clone(),
            file: self.folder.join(&*about.stream),
            window: Window::of_sets(256),
        })
    }

    fn publish(&self, _terms: &NoOptions, _at: &str) -> Json {
        serde_json::json!({ "method": Self::ENTRY.uri })
    }
}

/// The file of one stream.
struct SpoolChannel {
    folder: PathBuf,
    file: PathBuf,
    window: Window,
}

impl SpoolChannel {
    /// Appends a batch, which is acknowledged when all of it is on the disk.
    async fn append(&self, sets: &[SealedSet]) -> io::Result<()> {
        tokio::fs::create_dir_all(&self.folder).await?;
        let mut file = File::options().create(true).append(true).open(&self.file).await?;
        let mut lines = Vec::new();
        for set in sets {
            lines.extend_from_slice(&set.body);
            lines.push(b'\n');
        }
        file.write_all(&lines).await?;
        file.sync_data().await
    }

    async fn hand_over(&self, sets: Vec<SealedSet>) -> Vec<Outcome> {
        let outcome = match self.append(&sets).await {
            Ok(()) => Ok(Receipt::Broker),
            Err(error) => Err(Verdict::Retry {
                scope: Scope::Channel,
                after: None,
                cause: Cause::new("io", format!("could not write the spool: {error}")),
            }),
        };
        vec![outcome; sets.len()]
    }
}

impl Channel for SpoolChannel {
    fn profile(&self) -> Profile {
        Profile {
            initiator: Initiator::Gateway,
            // A batch that fails half-way is written again as a whole; its part that was written is a prefix.
            order: Order::PerBatch,
            receipt: Receipt::Broker,
            form: Form::Token,
            redelivery: Redelivery::WhenConsumerEnds,
            limits: Limits { sets: 256, bytes: 1 << 20, overhead: 1, set_bytes: 1 << 20 },
            endpoint: None,
            windows: vec![self.window.clone()],
        }
    }

    async fn run(&self, subscription: Subscription, consumer: Consumer) -> Closed {
        drive::batches(&subscription, consumer, |sets| self.hand_over(sets)).await
    }
}

fn main() -> ExitCode {
    setgate::main()
}
