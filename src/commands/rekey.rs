//! `setgate keys rotate-kek`: seals everything at rest with another key-encryption key.

use setgate_cli::{Context, Ended, Exit, Failure};

use super::configuration;
use crate::state::{
    self,
    rekey::{finish, prepare},
};

/// Changes the key-encryption key now, or prepares the change for the next start.
pub(crate) async fn run(context: &Context, new: Option<String>, at_next_start: bool) -> Ended {
    let config = configuration::load(context, false)?.config;
    let out = context.out;
    if at_next_start {
        let present = state::read_kek(&config)?;
        state::read_names(&config, &[&present])?;
        let next = prepare(&config, &present, new)?;
        out.value(&serde_json::json!({"from": present.id(), "to": next.kek.id(), "at_next_start": true}));
        out.line(format!("the next start changes from key-encryption key {} to {}", present.id(), next.kek.id()));
        return Ok(Exit::Done);
    }
    let mut kept = state::open(&context.runtime, &config, false).await.map_err(|failure| {
        if failure.exit == Exit::Locked {
            failure.remedy("stop the gateway, or give --at-next-start: the gateway then does it when it starts")
        } else {
            failure
        }
    })?;
    let changed = match kept.rekeyed.take() {
        Some(changed) => changed,
        None => {
            let next = prepare(&config, &kept.kek, new)?;
            let Some(engine) = kept.engine.clone() else { return Err(Failure::failed("there is no store")) };
            finish(&config, &engine, &kept.kek, &next, false).await?
        }
    };
    kept.store.close().await.map_err(|error| Failure::new(Exit::Store, error.to_string()))?;
    out.value(&changed);
    for line in changed.describe() {
        out.line(line);
    }
    Ok(Exit::Done)
}
