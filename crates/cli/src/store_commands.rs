//! The commands of `setgate store` that ask the running gateway.

use serde_json::{Value as Json, json};

use crate::{Context, Ended, Exit, Gateway, admin_client::AdminClient, context::confirm, show};

/// Prints the health of the store. The other commands, such as `store check`, are the root crate's, since they need the
/// store and no gateway.
pub(crate) async fn health(gateway: &dyn Gateway, context: &Context) -> Ended {
    let health = AdminClient::open(context, gateway)?.get(&["store"], &[]).await?;
    context.out.value(&health);
    context.out.line(describe(&health));
    Ok(Exit::Done)
}

/// Confirms that the wall clock is right, after showing it as the gateway sees it.
pub(crate) async fn confirm_clock(gateway: &dyn Gateway, context: &Context, yes: bool) -> Ended {
    let admin = AdminClient::open(context, gateway)?;
    let health = admin.get(&["store"], &[]).await?;
    let clock = show::text(&health, "clock");
    let ahead = show::number(&health, "accepted_ahead_seconds");
    let found = match health.get("clock_trouble").and_then(Json::as_str) {
        None if ahead == 0 => {
            context.out.value(&json!({"offset_seconds": 0, "went_back_seconds": 0}));
            context
                .out
                .line(format!("the clock of the gateway shows {clock}, and is believed: there is nothing to confirm"));
            return Ok(Exit::Done);
        }
        None => format!("The last event was accepted {ahead} s later than the gateway's clock shows, {clock}."),
        Some(trouble) => format!(
            "{}\nThe clock of the gateway shows {clock}, and the gateway goes by {}. What is kept for a time ends by the clock.",
            setgate_telemetry::clean(trouble, 512),
            show::text(&health, "believed_time")
        ),
    };
    // The clock is shown also when there is nobody to ask, and when `--yes` was given.
    context.out.note(found);
    confirm(context, yes, "Is the clock right?")?;
    let confirmed = admin.post(&["store", "confirm-clock"], &json!({})).await?;
    context.out.value(&confirmed);
    context.out.line(format!("the clock is believed: {clock}"));
    let back = show::number(&confirmed, "went_back_seconds");
    if back > 0 {
        context.out.line(format!("times of acceptance, and with them `iat`, went back by {back} s"));
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
