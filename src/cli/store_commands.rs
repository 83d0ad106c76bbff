//! `setgate store` against the running gateway.

use serde_json::Value as Json;

use crate::{Context, Ended, Exit, Gateway, door::Door, show};

/// Says how the store is doing; `store check` and `store adopt` are the root's, since they need the store and no gateway.
pub(crate) async fn health(gateway: &dyn Gateway, context: &Context) -> Ended {
    let health = Door::open(context, gateway)?.get(&["store"], &[]).await?;
    context.out.value(&health);
    context.out.line(describe(&health));
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
