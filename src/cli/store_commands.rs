//! `setgate store` against the running gateway.

use serde_json::{Value as Json, json};

use crate::{Context, Ended, Exit, Gateway, args::StoreCommand, door::Door, run::confirm, show};

/// Does what a command about the store of the running gateway says; `store check` is the root's, since it needs no gateway.
pub(crate) async fn run(gateway: &dyn Gateway, context: &Context, command: StoreCommand) -> Ended {
    let door = Door::open(context, gateway)?;
    let health = door.get(&["store"], &[]).await?;
    match command {
        StoreCommand::Health => {
            context.out.value(&health);
            context.out.line(describe(&health));
        }
        StoreCommand::Adopt { yes } => {
            context.out.note(describe(&health));
            if health.get("held").and_then(Json::as_bool) == Some(false) {
                context.out.line("this store delivers already; nothing is to be adopted");
                context.out.value(&json!({"adopted": false}));
                return Ok(Exit::Done);
            }
            confirm(context, yes, "Deliver from this store from now on? The original must not deliver any more.")?;
            let answer = door.post(&["store", "adopt"], &json!({})).await?;
            context.out.value(&answer);
            context.out.line("this store delivers from now on");
        }
        StoreCommand::Check { .. } => {}
    }
    Ok(Exit::Done)
}

fn describe(health: &Json) -> String {
    let sizes = ["bytes", "budget", "free", "reserve"];
    let mut shown = health.clone();
    if let Some(members) = shown.as_object_mut() {
        for name in sizes {
            if let Some(value) = members.get_mut(name) {
                *value = show::bytes(value.as_u64().unwrap_or_default()).into();
            }
        }
    }
    show::members(&shown)
}
