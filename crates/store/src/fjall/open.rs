//! Creation, opening and adoption of a store.

use std::{
    fs,
    sync::{Arc, mpsc},
    time::Duration,
};

use fjall::PersistMode;
use setgate_clock::Runtime;
use setgate_set::Timestamp;

use crate::{
    Boot, Fence, FjallStore, Names, Observed, Options, StoreError, Why,
    fjall::{
        engine::{Engine, engine_error, key},
        guard::{guarded, panic_text},
        identity::{Instance, fingerprint, token},
        journal,
        place::{FORMAT, OpenError, StorePlace, is_full, refuse_network, space, sync_folder},
        replay::{EPOCH, Loaded, load, write_counters},
        shared::{Parts, Shared},
        watermark::{Mark, Watermark},
        writer::{Ledge, Writer},
    },
    sanity::{Beat, Sanity},
    state::Numbers,
};

/// The capacity of the writer's queue.
const QUEUE: usize = 4096;

/// The step by which numbers advance when a copy is adopted, so that those which the original allocated meanwhile are
/// not allocated again.
const ADOPTED: u32 = 1 << 16;

/// An open store and the findings of its opening.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Arc<FjallStore>,
    /// The findings.
    pub report: OpenReport,
}

/// The findings of the opening of a store.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct OpenReport {
    /// The store's id.
    pub id: String,
    /// True when the store was closed in order before.
    pub clean: bool,
    /// The heads and deltas that were replayed.
    pub replayed: u64,
    /// The time that the opening took.
    pub took: Duration,
    /// The last record.
    pub last: u64,
    /// The deliveries owed.
    pub waiting: u64,
    /// The reason why the store is held as a copy until it is adopted, if it is.
    pub held: Option<String>,
    /// True when the wall clock is suspect.
    pub clock_suspect: bool,
}

/// The properties of a new store.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Created {
    /// The store's id.
    pub id: String,
    /// The bytes that the store may use.
    pub budget: u64,
}

pub(crate) fn damaged(error: StoreError) -> OpenError {
    match error {
        StoreError::Corrupt(text) => OpenError::Damaged(text),
        StoreError::Full(text) => OpenError::Full(text),
        other => OpenError::Damaged(Why::of(other)),
    }
}

impl FjallStore {
    /// Creates a store in an empty folder, and its owner token.
    ///
    /// # Errors
    /// Returns [`OpenError`], for example where there is a store already.
    pub fn init(
        place: &StorePlace,
        options: &Options,
        secret: &[u8; Names::SECRET],
        runtime: &Runtime,
    ) -> Result<Created, OpenError> {
        fs::create_dir_all(&place.store).map_err(OpenError::io("make", &place.store))?;
        let mut inside = fs::read_dir(&place.store).map_err(OpenError::io("read", &place.store))?;
        if inside.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "lost+found")) && !place.is_half_made()? {
            return Err(OpenError::Exists(place.store.clone()));
        }
        refuse_network(&place.store)?;
        let _lock = place.lock()?;
        if place.engine().exists() {
            fs::remove_dir_all(place.engine()).map_err(OpenError::io("remove", &place.engine()))?;
        }
        if place.watermark().exists() {
            fs::remove_file(place.watermark()).map_err(OpenError::io("remove", &place.watermark()))?;
        }
        let (_, whole) = space(&place.store).map_err(OpenError::io("look at", &place.store))?;
        let budget = if options.budget_bytes == 0 { whole / 2 } else { options.budget_bytes };
        let instance = Instance {
            format: FORMAT,
            id: token(runtime),
            secret: fingerprint(secret),
            token: token(runtime),
            before: String::new(),
            budget,
        };
        drop(Engine::open(&place.engine()).map_err(damaged)?);
        let heartbeat = Timestamp::from_millis(runtime.clock.wall_millis());
        Watermark::create(&place.watermark(), Mark { heartbeat, clean: true, ..Mark::default() })
            .map_err(OpenError::io("write", &place.watermark()))?;
        place.write_owner(&instance)?;
        // The instance is written last: a folder without it is not a store, and can be initialised again.
        place.write_instance(&instance)?;
        sync_folder(&place.store).map_err(OpenError::io("write", &place.store))?;
        Ok(Created { id: instance.id, budget })
    }

    /// Removes what an interrupted [`FjallStore::init`] left, so that it can be repeated. Where there is a store, or
    /// where one may have been, nothing is touched.
    ///
    /// # Errors
    /// Returns [`OpenError`], for example where another process creates the store at this moment.
    pub fn clear_unfinished(place: &StorePlace) -> Result<(), OpenError> {
        if place.has_instance() || !place.engine().exists() {
            return Ok(());
        }
        let _lock = place.lock()?;
        // The watermark is made after the engine and before the instance, and records what was ever accepted.
        let mark = place.watermark();
        match Watermark::read(&mark) {
            Ok(Some(Mark { last: 0, epoch: 0, .. })) => {
                fs::remove_file(&mark).map_err(OpenError::io("remove", &mark))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            _ => return Ok(()),
        }
        fs::remove_dir_all(place.engine()).map_err(OpenError::io("remove", &place.engine()))
    }

    /// Opens a store: takes its lock, replays what is not folded yet, and compares its content with the watermark.
    ///
    /// # Errors
    /// Returns [`OpenError`] where the store is in use, has another format, is damaged or has less than the watermark
    /// promises.
    pub fn open(
        place: &StorePlace,
        options: &Options,
        secret: &[u8; Names::SECRET],
        runtime: &Runtime,
        observed: Observed,
    ) -> Result<Opened, OpenError> {
        let began = runtime.clock.monotonic();
        let mut instance = place.instance(Some(secret))?;
        refuse_network(&place.store)?;
        let lock = place.lock()?;
        place.finish_swap().map_err(OpenError::io("put in place the repaired parts of", &place.store))?;
        let held = place.check(&instance)?;
        let (mut watermark, mark) = open_mark(place)?;
        let (engine, loaded) = open_engine(place, &mark)?;
        let epoch = loaded.epoch.max(mark.epoch) + 1;
        let boot = Shared::fresh_boot(runtime);
        let last_beat = (mark.heartbeat, mark.beat.unwrap_or_default());
        let steady = options.clock_steady;
        let sanity = Sanity::new(runtime, steady, observed.clock.clone(), Some(last_beat));
        if mark.last == 0 {
            // No event was ever accepted: there is nothing that a wrong clock could destroy, and the store may have
            // been made long ago.
            sanity.believe(runtime);
        }
        // The buckets are dated before anything is written.
        engine.date_buckets(options, sanity.now(runtime)).map_err(damaged)?;
        if let Err(error) = begin(&engine, epoch) {
            let error = damaged(error);
            if !error.is_full() {
                // The engine flushes its journal when it is dropped, and a flush that the disk did not confirm must not
                // be tried again.
                std::mem::forget(engine);
            }
            return Err(error);
        }
        begin_mark(&mut watermark, &loaded, epoch, boot, sanity.beat(runtime))
            .map_err(OpenError::io("write", &place.watermark()))?;
        let renewed = if held.is_none() { place.renew(&mut instance, runtime) } else { Ok(()) };
        let unrenewed = match renewed {
            Ok(()) => None,
            // A full disk must not keep the store from being opened, since opening is how it frees space. No event is
            // accepted meanwhile.
            Err(error) if error.is_full() => {
                tracing::warn!(%error, "the token of the store is renewed as soon as there is room");
                Some(instance.clone())
            }
            Err(error) => return Err(error),
        };
        journal::forget_aside(&place.aside()).map_err(OpenError::io("remove", &place.aside()))?;
        let report = OpenReport {
            id: instance.id.clone(),
            clean: mark.clean,
            replayed: loaded.replayed,
            took: runtime.clock.monotonic().saturating_sub(began),
            last: loaded.state.last,
            waiting: loaded.state.waiting,
            held: held.clone(),
            clock_suspect: sanity.check(runtime),
        };
        let engine = Arc::new(engine);
        let (_, whole) = space(&place.store).map_err(OpenError::io("look at", &place.store))?;
        let Loaded { state, fold, commit, chain, keys, .. } = loaded;
        let shared = Arc::new(Shared::new(Parts {
            runtime: runtime.clone(),
            options: options.clone(),
            place: place.clone(),
            names: Names::new(b'a', secret),
            observed,
            fence: Fence { epoch },
            budget: if options.budget_bytes == 0 { instance.budget } else { options.budget_bytes },
            reserve: options.reserve(whole),
            state,
            engine: engine.clone(),
            sanity,
            boot,
            held: held.is_some(),
            keys,
        }));
        let (sender, receiver) = mpsc::sync_channel(QUEUE);
        let mut writer = Writer::new(shared.clone(), engine, watermark, lock, Ledge { commit, chain, fold });
        // The disk is measured before the first event can arrive, since a full disk must accept none.
        writer.measure();
        writer.unrenewed = unrenewed;
        let thread = std::thread::Builder::new().name("store-writer".into()).spawn(move || {
            let shared = writer.shared.clone();
            let run = std::panic::AssertUnwindSafe(|| writer.run(&receiver));
            if let Err(panic) = std::panic::catch_unwind(run) {
                let error = StoreError::Corrupt(panic_text(&*panic).into());
                shared.fatal.send_replace(Some(error.to_string()));
                *shared.trouble.lock() = Some(error);
            }
        });
        thread.map_err(OpenError::io("start the writer of", &place.store))?;
        Ok(Opened { store: Arc::new(Self::over(shared, sender)), report })
    }

    /// Makes a copy, or a restored backup, the original: from now on this folder is the store. The original must not be
    /// used again.
    ///
    /// The numbers of streams, issuers and producers advance, so that none which the original allocated after the copy
    /// was made is allocated again.
    ///
    /// # Errors
    /// Returns [`OpenError`] as for opening.
    pub fn adopt(place: &StorePlace, runtime: &Runtime) -> Result<(), OpenError> {
        let mut instance = place.instance(None)?;
        let _lock = place.lock()?;
        if place.check(&instance)?.is_none() {
            return Ok(());
        }
        let (_, mark) = open_mark(place)?;
        let (engine, loaded) = open_engine(place, &mark)?;
        let state = &loaded.state;
        let numbers = adopted(state.numbers);
        let counters = write_counters(state.version, state.membership, numbers);
        let batch = || {
            let mut batch = engine.db.batch().durability(Some(PersistMode::SyncAll));
            batch.insert(&engine.meta, crate::fjall::replay::COUNTERS, counters);
            batch.commit()
        };
        batch().map_err(engine_error).map_err(damaged)?;
        drop(engine);
        place.renew(&mut instance, runtime)
    }
}

/// Returns the numbers after an adoption.
pub(crate) fn adopted(numbers: Numbers) -> Numbers {
    let on = |number: u32| if number == 0 { 0 } else { number.saturating_add(ADOPTED) };
    Numbers { stream: on(numbers.stream), issuer: on(numbers.issuer), producer: on(numbers.producer) }
}

/// Opens the watermark file, which must hold a mark.
pub(crate) fn open_mark(place: &StorePlace) -> Result<(Watermark, Mark), OpenError> {
    let path = place.watermark();
    match Watermark::open(&path) {
        Ok((watermark, Some(mark))) => Ok((watermark, mark)),
        Ok((_, None)) => Err(OpenError::Damaged("neither slot of the watermark reads".into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(OpenError::Damaged(format!("{} is missing", path.display()).into()))
        }
        Err(error) => Err(OpenError::io("open", &path)(error)),
    }
}

/// Opens the engine and compares its content with the mark.
pub(crate) fn open_engine(place: &StorePlace, mark: &Mark) -> Result<(Engine, Loaded), OpenError> {
    let path = place.engine();
    if !path.exists() {
        return Err(OpenError::Damaged(format!("its folder {} is missing", path.display()).into()));
    }
    // The check comes before the engine opens its journals: it would cut off what it cannot read, and everything after
    // it.
    let tail = journal::tail(&path, mark.commit).map_err(OpenError::io("read", &path))?;
    if let journal::Tail::Damaged(hole) = tail {
        return Err(OpenError::Damaged(hole.into()));
    }
    let before = journal::ends(&path).map_err(OpenError::io("read", &path))?;
    if !mark.clean {
        match journal::keep_aside(&path, &place.aside()) {
            Ok(()) => {}
            // A full disk must not keep the store from being opened, since opening is how it frees space.
            Err(error) if is_full(&error) => {
                tracing::warn!("there is no room to copy the journals aside before they are opened");
            }
            Err(error) => return Err(OpenError::io("copy the journals of", &path)(error)),
        }
        if let journal::Tail::Torn(torn, from) = &tail {
            journal::cut_off(torn, *from).map_err(OpenError::io("cut off what was not flushed of", torn))?;
        }
    }
    let engine = guarded(|| Engine::open(&path)).map_err(damaged)?;
    let cut = journal::cut(&path, &before).map_err(OpenError::io("read", &path))?;
    if let Some(number) = cut.first() {
        return Err(OpenError::Damaged(
            format!("journal {number} was cut short by the engine, since it does not read to its end").into(),
        ));
    }
    let loaded = guarded(|| load(&engine)).map_err(damaged)?;
    compare(place, mark, &loaded, &engine)?;
    Ok((engine, loaded))
}

pub(crate) fn compare(place: &StorePlace, mark: &Mark, loaded: &Loaded, engine: &Engine) -> Result<(), OpenError> {
    let found = loaded.state.last;
    if found < mark.last || loaded.commit < mark.commit || loaded.state.version.0 < mark.version {
        return Err(OpenError::Short {
            events: mark.last.saturating_sub(found),
            commits: mark.commit.saturating_sub(loaded.commit),
            found,
            promised: mark.last,
            aside: Some(place.aside()).filter(|aside| aside.exists()),
        });
    }
    let chain = match mark.last.checked_sub(loaded.fold.frontier) {
        Some(index) => usize::try_from(index).ok().and_then(|index| loaded.chains.get(index).copied().flatten()),
        None => engine.head(mark.last).map_err(damaged)?.map(|written| written.chain),
    };
    match chain {
        Some(chain) if chain != mark.chain && mark.last > 0 => {
            Err(OpenError::Damaged(format!("record {} is not the one that was promised", mark.last).into()))
        }
        _ => Ok(()),
    }
}

/// Records one more opening.
fn begin(engine: &Engine, epoch: u64) -> Result<(), StoreError> {
    let mut batch = engine.db.batch().durability(Some(PersistMode::SyncAll));
    batch.insert(&engine.meta, EPOCH, key(epoch));
    batch.commit().map_err(engine_error)
}

fn begin_mark(
    watermark: &mut Watermark,
    loaded: &Loaded,
    epoch: u64,
    boot: Boot,
    (heartbeat, beat): (Timestamp, Beat),
) -> std::io::Result<()> {
    watermark.write(Mark {
        number: 0,
        epoch,
        boot: boot.0,
        commit: loaded.commit,
        last: loaded.state.last,
        chain: loaded.chain,
        version: loaded.state.version.0,
        heartbeat,
        beat: Some(beat),
        clean: false,
    })?;
    watermark.sync()
}
