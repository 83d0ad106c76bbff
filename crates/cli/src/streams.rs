//! The command `setgate streams`.

use serde_json::{Value as Json, json};

use crate::{
    Align, Cell, Context, Ended, Exit, Gateway, Table,
    admin_client::AdminClient,
    args::StreamsCommand,
    context::confirm,
    out::{BAD, DIM, GOOD, WARN},
    show,
};

/// Runs a command about streams.
pub(crate) async fn run(gateway: &dyn Gateway, context: &Context, command: StreamsCommand) -> Ended {
    let admin = AdminClient::open(context, gateway)?;
    match command {
        StreamsCommand::List => {
            let all = admin.get(&["streams"], &[]).await?;
            context.out.value(&all);
            list(context, &show::items(&all, "streams"));
            if let Some(closed) = all.get("intake_closed").filter(|closed| closed.is_object()) {
                let (why, remedy) = (show::text(closed, "why"), show::text(closed, "remedy"));
                context.out.warn(format!("intake is closed: {why}\n  {remedy}"));
            }
            for warning in show::items(&all, "warnings").iter().filter_map(Json::as_str) {
                context.out.warn(setgate_telemetry::clean(warning, 512));
            }
        }
        StreamsCommand::Show { id } => {
            let stream = admin.get(&["streams", &id], &[]).await?;
            context.out.value(&stream);
            context.out.line(show::members(&stream));
        }
        StreamsCommand::Pause { id, reason } => {
            let stream = admin.post(&["streams", &id, "pause"], &json!({"reason": reason})).await?;
            changed(context, &stream, &format!("{id} is paused; what is due is kept"));
        }
        StreamsCommand::Resume { id, reissue } => {
            let stream = admin.post(&["streams", &id, "resume"], &json!({"reissue": reissue})).await?;
            changed(context, &stream, &format!("{id} is delivered again"));
        }
        StreamsCommand::Delete { id, yes } => {
            let stream = admin.get(&["streams", &id], &[]).await?;
            let waiting = show::number(&stream, "waiting");
            let parked = show::number(&stream, "parked");
            confirm(context, yes, &format!("Delete {id} with {waiting} waiting and {parked} parked SETs?"))?;
            admin.delete(&["streams", &id]).await?;
            context.out.value(&json!({"deleted": id, "waiting": waiting, "parked": parked}));
            context.out.line(format!("{id} is deleted; {waiting} waiting SETs were dropped"));
        }
    }
    Ok(Exit::Done)
}

fn changed(context: &Context, stream: &Json, text: &str) {
    context.out.value(stream);
    context.out.line(text);
    if let Some(reason) = stream.get("nothing_because").and_then(Json::as_str) {
        context.out.warn(setgate_telemetry::clean(reason, 512));
    }
}

fn list(context: &Context, streams: &[Json]) {
    if streams.is_empty() {
        context.out.line("no streams; declare one with [[streams]] in the configuration");
        return;
    }
    let mut table = Table::new(&[
        ("stream", Align::Left),
        ("status", Align::Left),
        ("method", Align::Left),
        ("waiting", Align::Right),
        ("oldest", Align::Right),
        ("acknowledged", Align::Right),
        ("parked", Align::Right),
        ("what is wrong", Align::Left),
    ]);
    for stream in streams {
        let status = show::text(stream, "status");
        let style = match status.as_str() {
            "enabled" => GOOD,
            "paused" => WARN,
            _ => DIM,
        };
        let oldest = stream.get("oldest_waiting_seconds").and_then(Json::as_f64).map_or_else(String::new, show::time);
        let parked = show::number(stream, "parked");
        table.row([
            show::text(stream, "id").into(),
            Cell::styled(status, style),
            show::text(stream, "method").into(),
            show::number(stream, "waiting").to_string().into(),
            oldest.into(),
            show::number(stream, "acknowledged").to_string().into(),
            Cell::styled(parked.to_string(), if parked > 0 { BAD } else { DIM }),
            trouble(stream).into(),
        ]);
    }
    context.out.line(table.render());
}

/// Returns the most important trouble of a stream, or an empty text.
///
/// In this order: the SETs that its limits dropped, unless nothing can come or it is not enabled; the shared endpoint
/// that it waits for, while it is enabled; the reason why nothing can come; the reason why it is not enabled; the last
/// error, unless a delivery succeeded since; a behaviour of its receiver that is wrong but works.
fn trouble(stream: &Json) -> String {
    let limited = stream.get("limited").filter(|limited| limited.is_object());
    if let Some(limited) = limited
        .filter(|_| ["nothing_because", "reason"].iter().all(|member| stream.get(member).is_none_or(Json::is_null)))
    {
        let (dropped, rule) = (show::number(limited, "dropped"), show::text(limited, "rule"));
        let ago = show::time(limited.get("seconds_ago").and_then(Json::as_f64).unwrap_or_default());
        return format!("limited: {dropped} SETs dropped ({rule}), the last {ago} ago");
    }
    let held = stream.get("held").filter(|held| held.is_object());
    if let Some(held) = held.filter(|_| show::text(stream, "status") == "enabled") {
        let (endpoint, cause) = (show::text(held, "endpoint"), show::text(held, "cause"));
        return setgate_telemetry::clean(&format!("waits for {endpoint}: {cause}"), 120);
    }
    let since = |member: &str| stream.get(member).and_then(Json::as_u64);
    let fixed = match (since("last_success_seconds_ago"), since("last_error_seconds_ago")) {
        (Some(success), Some(error)) => success <= error,
        _ => false,
    };
    let members: &[&str] = if fixed {
        &["nothing_because", "reason", "warning"]
    } else {
        &["nothing_because", "reason", "last_error", "warning"]
    };
    members
        .iter()
        .find_map(|member| stream.get(member).and_then(Json::as_str).filter(|text| !text.is_empty()))
        .map(|text| setgate_telemetry::clean(text, 120))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_was_fixed_is_no_trouble() {
        let mut stream = json!({"last_error": "503", "last_error_seconds_ago": 5, "last_success_seconds_ago": 9});
        assert_eq!(trouble(&stream), "503");
        stream["last_success_seconds_ago"] = json!(2);
        assert_eq!(trouble(&stream), "");
        stream["warning"] = json!("answers 200 instead of 202");
        assert_eq!(trouble(&stream), "answers 200 instead of 202");
        stream["reason"] = json!("paused by the operator");
        assert_eq!(trouble(&stream), "paused by the operator");
    }

    #[test]
    fn what_limits_dropped_is_told() {
        let limited = json!({"rule": "too_large", "dropped": 2000, "seconds_ago": 300});
        let mut stream = json!({"status": "enabled", "limited": limited, "nothing_because": null, "last_error": "503"});
        assert_eq!(trouble(&stream), "limited: 2000 SETs dropped (too_large), the last 5m ago");
        stream["nothing_because"] = json!("the store is a copy");
        assert_eq!(trouble(&stream), "the store is a copy");
    }

    #[test]
    fn what_a_stream_waits_for_with_others_is_its_trouble() {
        let held = json!({"endpoint": "kafka/main", "cause": "no broker answers (timeout)", "for_seconds": 9});
        let stream = json!({"status": "enabled", "held": held, "last_error": "older"});
        assert_eq!(trouble(&stream), "waits for kafka/main: no broker answers (timeout)");
    }
}
