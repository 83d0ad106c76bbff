//! Commands that speak to the running gateway through its admin listener.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `setgate streams`.
#[derive(Clone, Debug, Subcommand)]
pub enum StreamsCommand {
    /// List streams with what waits, the last error, and why nothing can come.
    #[command(
        after_help = "Examples:\n  setgate streams list\n  setgate streams list --json | jq '.streams[] | select(.waiting > 0)'"
    )]
    List,
    /// Show one stream in full.
    #[command(after_help = "Examples:\n  setgate streams show crm")]
    Show {
        /// The stream's id.
        id: String,
    },
    /// Stop delivery; what is due is kept.
    #[command(after_help = "Examples:\n  setgate streams pause crm --reason 'receiver under maintenance'")]
    Pause {
        /// The stream's id.
        id: String,
        /// Why, for those who look later.
        #[arg(long, value_name = "TEXT", default_value = "paused by the operator")]
        reason: String,
    },
    /// Deliver again.
    #[command(
        after_help = "Examples:\n  setgate streams resume crm\n  setgate streams resume crm --reissue    # also what was parked by the stream's own fault"
    )]
    Resume {
        /// The stream's id.
        id: String,
        /// Also issue again what was parked by the stream's own fault (a stale key set, a wrong audience).
        #[arg(long)]
        reissue: bool,
    },
    /// Delete a stream for good: what it is still owed is dropped, counted.
    #[command(after_help = "Examples:\n  setgate streams delete crm --yes\n\n\
        A stream that the configuration still declares comes back, empty, at the next start.")]
    Delete {
        /// The stream's id.
        id: String,
        /// Do it without asking.
        #[arg(long)]
        yes: bool,
    },
}

/// `setgate parked`.
#[derive(Clone, Debug, Subcommand)]
pub enum ParkedCommand {
    /// List parked SETs with the reason.
    #[command(
        after_help = "Examples:\n  setgate parked list\n  setgate parked list --stream crm --code invalid_request --limit 20"
    )]
    List(ParkedList),
    /// Show one parked SET with its claims.
    #[command(after_help = "Examples:\n  setgate parked show a4fXx0cBDmU5bS5dFhQe0Vw")]
    Show {
        /// Its jti.
        jti: String,
    },
    /// Issue parked SETs again, each with a new jti and the same txn.
    #[command(
        after_help = "Examples:\n  setgate parked reissue a4fXx0cBDmU5bS5dFhQe0Vw\n  setgate parked reissue --stream crm --code invalid_audience\n\n\
        A SET that is issued again comes after everything accepted before. Where a later SET of the same subject was\n\
        acknowledged already, --out-of-order is needed."
    )]
    Reissue {
        /// Which.
        #[command(flatten)]
        which: OnSets,
        /// Also where a later SET of the same subject was acknowledged.
        #[arg(long)]
        out_of_order: bool,
    },
    /// Drop parked SETs for good.
    #[command(
        after_help = "Examples:\n  setgate parked drop a4fXx0cBDmU5bS5dFhQe0Vw\n  setgate parked drop --stream crm --yes"
    )]
    Drop {
        /// Which.
        #[command(flatten)]
        which: OnSets,
        /// Do it without asking.
        #[arg(long)]
        yes: bool,
    },
}

/// Which parked SETs to list.
#[derive(Clone, Debug, Args)]
pub struct ParkedList {
    /// Of this stream only.
    #[arg(long, value_name = "ID")]
    pub stream: Option<String>,
    /// With this error code only.
    #[arg(long, value_name = "CODE")]
    pub code: Option<String>,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
}

/// Parked SETs by name, or all of a stream or a code.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = true)]
pub struct OnSets {
    /// Their jti.
    #[arg(value_name = "JTI", conflicts_with_all = ["stream", "code"])]
    pub jti: Vec<String>,
    /// All of this stream.
    #[arg(long, value_name = "ID")]
    pub stream: Option<String>,
    /// All with this error code.
    #[arg(long, value_name = "CODE")]
    pub code: Option<String>,
}

/// `setgate keys`.
#[derive(Clone, Debug, Subcommand)]
pub enum KeysCommand {
    /// List signing keys with their state.
    #[command(after_help = "Examples:\n  setgate keys list\n  setgate keys list --issuer https://idp.example.com")]
    List {
        /// Of this issuer only.
        #[arg(long, value_name = "URL")]
        issuer: Option<String>,
    },
    /// Import a private key; it is published at once and signs when receivers can know it.
    #[command(after_help = "Examples:\n  setgate keys import signing.pem --issuer https://idp.example.com\n\n\
        PKCS#8, PKCS#1 or SEC1; RSA of 2048 to 4096 bits, P-256 or Ed25519.")]
    Import {
        /// A PEM file with one private key; `-` reads standard input.
        file: PathBuf,
        /// For this issuer [default: the only one].
        #[arg(long, value_name = "URL")]
        issuer: Option<String>,
        /// RS256 or PS256 for an RSA key.
        #[arg(long, value_name = "ALG")]
        algorithm: Option<String>,
    },
    /// Publish a next key now; it signs once receivers' caches of the key set have run out.
    #[command(
        after_help = "Examples:\n  setgate keys rotate\n  setgate keys rotate --issuer https://idp.example.com --algorithm ES256"
    )]
    Rotate {
        /// For this issuer [default: the only one].
        #[arg(long, value_name = "URL")]
        issuer: Option<String>,
        /// Of this algorithm only [default: every algorithm of the issuer].
        #[arg(long, value_name = "ALG")]
        algorithm: Option<String>,
        /// Bits of an RSA key.
        #[arg(long, value_name = "BITS")]
        bits: Option<u32>,
        /// Also while an earlier rotation is under way.
        #[arg(long)]
        force: bool,
    },
    /// Withdraw a key at once: it is published no more, and what waits is signed with another.
    #[command(after_help = "Examples:\n  setgate keys revoke NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs --yes")]
    Revoke {
        /// The key's kid.
        #[arg(allow_hyphen_values = true)]
        kid: String,
        /// Of this issuer [default: the one that has it].
        #[arg(long, value_name = "URL")]
        issuer: Option<String>,
        /// Do it without asking.
        #[arg(long)]
        yes: bool,
    },
    /// Seal signing keys and receivers' credentials with a new key-encryption key; the gateway must not be running.
    #[command(after_help = "Examples:\n  setgate keys rotate-kek\n  setgate keys rotate-kek --at-next-start\n  \
            setgate keys rotate-kek --new file:/run/secrets/kek-2027\n\n\
            A run that broke off is finished by the next start, or by the same command. The old key is kept aside, since\n\
            backups made before need it.")]
    RotateKek(RotateKekArgs),
}

/// How the key-encryption key is changed.
#[derive(Clone, Debug, Args)]
pub struct RotateKekArgs {
    /// The new key, `file:PATH` or `env:NAME` [default: one is made beside the present file].
    #[arg(long, value_name = "WHERE")]
    pub new: Option<String>,
    /// Only prepare it; the gateway changes over when it starts next. It may be running.
    #[arg(long)]
    pub at_next_start: bool,
}

/// `setgate producers`.
#[derive(Clone, Debug, Subcommand)]
pub enum ProducersCommand {
    /// Make a token of 256 bits, and print its hash and what to paste into the configuration.
    #[command(after_help = "Examples:\n  \
        setgate producers new hr --issuer https://idp.example.com\n  \
        setgate producers new hr --issuer https://idp.example.com --token-file hr.token >> setgate.toml\n  \
        setgate producers new app --issuer https://idp.example.com --subjects domain=example.com\n\n\
        The token is shown once and kept nowhere; the configuration holds its hash only.")]
    New {
        /// The producer's name.
        name: String,
        /// An issuer it may put events in under; may be given several times.
        #[arg(long, value_name = "URL", required = true)]
        issuer: Vec<String>,
        /// An event URI that it may send; may be given several times [default: all].
        #[arg(long, value_name = "URI")]
        event: Vec<String>,
        /// A rule that its subjects must meet: iss=URL, domain=DOMAIN or tenant=ID; may be given several times [default: any].
        #[arg(long, value_name = "RULE")]
        subjects: Vec<String>,
        /// Write the token to a new 0600 file instead of showing it.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// List the producers of the running gateway.
    #[command(after_help = "Examples:\n  setgate producers list")]
    List,
}

/// `setgate receivers`.
#[derive(Clone, Debug, Subcommand)]
pub enum ReceiversCommand {
    /// Make a token of 256 bits, and print its hash and what to paste into the configuration.
    #[command(after_help = "Examples:\n  \
        setgate receivers new crm --issuer https://idp.example.com --stream crm\n  \
        setgate receivers new crm --issuer https://idp.example.com --stream crm --token-file crm.token >> setgate.toml\n  \
        setgate receivers new ops --issuer https://idp.example.com --all-streams\n\n\
        The token is shown once and kept nowhere; the configuration holds its hash only.")]
    #[command(group = clap::ArgGroup::new("which").required(true).args(["stream", "all_streams"]))]
    New {
        /// The receiver's name.
        name: String,
        /// An issuer whose streams it may connect to; may be given several times.
        #[arg(long, value_name = "URL", required = true)]
        issuer: Vec<String>,
        /// A stream that it may connect to; may be given several times.
        #[arg(long, value_name = "ID")]
        stream: Vec<String>,
        /// It may connect to every stream of these issuers, also those that come later.
        #[arg(long)]
        all_streams: bool,
        /// Write the token to a new 0600 file instead of showing it.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// List the receivers of the running gateway.
    #[command(after_help = "Examples:\n  setgate receivers list")]
    List,
}

/// `setgate sources`.
#[derive(Clone, Debug, Subcommand)]
pub enum SourcesCommand {
    /// List where the running gateway collects events: state, records that wait, last error.
    #[command(after_help = "Examples:\n  setgate sources list\n  setgate sources list --json")]
    List,
    /// Show records of a source that are no acceptable events, the oldest first; --json shows their bytes.
    #[command(
        after_help = "Examples:\n  setgate sources parked directory\n  setgate sources parked directory --limit 5 --json"
    )]
    Parked {
        /// The source.
        name: String,
        /// At most so many.
        #[arg(long, value_name = "COUNT", default_value_t = 1000)]
        limit: usize,
    },
    /// Drop parked records of a source for good.
    #[command(after_help = "Examples:\n  \
        setgate sources drop directory identity.events/0/17\n  \
        setgate sources drop directory --all --yes")]
    Drop {
        /// The source.
        name: String,
        /// The records, as `setgate sources parked` names them.
        #[arg(value_name = "RECORD")]
        at: Vec<String>,
        /// All that are parked of it.
        #[arg(long)]
        all: bool,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

/// `setgate store`.
#[derive(Clone, Debug, Subcommand)]
pub enum StoreCommand {
    /// Read the whole store and say whether it is sound; the gateway must not be running.
    #[command(
        after_help = "Examples:\n  setgate store check --config setgate.toml\n  setgate store check --path /mnt/copy/store"
    )]
    Check {
        /// The store's folder [default: from the configuration].
        #[arg(long, value_name = "FOLDER")]
        path: Option<PathBuf>,
    },
    /// Write a damaged store anew from what can be read; says first what is given up. The gateway must not be running.
    #[command(
        after_help = "Examples:\n  setgate store repair\n  setgate store repair --yes --json\n  setgate store repair --into /mnt/room/store\n\n\
        What reads is written anew, opened and checked; only then it takes the place of the damaged parts, which are\n\
        kept in the store's folder, in `damaged`, until you remove them. No `jti` is ever given twice. Delivery goes on\n\
        with the next start. With --into the damaged store is not touched: what is written there is a copy, held until\n\
        `setgate store adopt`. Needs room for what is kept."
    )]
    Repair {
        /// Leave the repaired store in this folder, for example on a disk with more room.
        #[arg(long, value_name = "FOLDER")]
        into: Option<PathBuf>,
        /// Write it anew although nothing is wrong with it.
        #[arg(long)]
        anyway: bool,
        /// Do it without asking.
        #[arg(long)]
        yes: bool,
    },
    /// Write what the store holds as JSON lines, as far as it reads; the gateway must not be running.
    #[command(
        after_help = "Examples:\n  setgate store export > store.ndjson\n  setgate store export --path /mnt/copy/store --to store.ndjson\n\n\
        Events with bodies and streams, what waits for each stream, parked SETs, names of records. The last line says what\n\
        could not be read. Keys, tokens and other values of records are left out; bodies are events in clear."
    )]
    Export {
        /// The store's folder [default: from the configuration].
        #[arg(long, value_name = "FOLDER")]
        path: Option<PathBuf>,
        /// The file to write, which must not be there [default: standard output].
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Say that this copy of a store is the one that delivers from now on.
    #[command(after_help = "Examples:\n  setgate store adopt --config setgate.toml\n\n\
        A store that was copied or restored starts with delivery held and intake closed, so that a test system does\n\
        not push old events to real receivers.")]
    Adopt {
        /// Do it without asking.
        #[arg(long)]
        yes: bool,
    },
    /// Say how the store of the running gateway is doing.
    #[command(after_help = "Examples:\n  setgate store health")]
    Health,
    /// Say that the wall clock is right, where the gateway does not believe it.
    #[command(
        after_help = "Examples:\n  setgate store confirm-clock\n  chronyc waitsync && setgate store confirm-clock --yes\n\n\
        A clock that jumped by more than an hour is not believed at once: events get the time that has passed since, and\n\
        nothing ends by age. Where events were accepted under a clock that was ahead, `iat` goes back to the clock."
    )]
    ConfirmClock {
        /// Do it without asking.
        #[arg(long)]
        yes: bool,
    },
}
