//! The rules for a producer's events: types and subjects (hardening H2).

use setgate_oauth::{Producer, SubjectPolicy, SubjectRules};
use setgate_set::{Event, Format, Simple, Subject};

use crate::error::Problem;

/// Checks an event against its producer's rules.
///
/// # Errors
/// 403, naming the rule as it is called in `[[producers]]`. The text never quotes the subject.
pub(crate) fn permit(producer: &Producer, event: &Event) -> Result<(), Problem> {
    if let Some(uri) = event.types.iter().find(|uri| !producer.events.allows(uri)) {
        let detail = format!("the producer `{}` may not put in events of this type", producer.name);
        let pointer = format!("/events/{}", uri.replace('~', "~0").replace('/', "~1"));
        return Err(Problem::forbidden(detail).ruled("events").at(pointer));
    }
    let SubjectPolicy::Rules(rules) = &producer.subjects else { return Ok(()) };
    subject(rules, &event.subject).map_err(|rule| {
        let detail = format!("the producer `{}` may not put in events about this subject", producer.name);
        Problem::forbidden(detail).ruled(rule).at("/sub_id")
    })
}

const ISS: &str = "subjects.iss";
const DOMAINS: &str = "subjects.email_domains";
const TENANTS: &str = "subjects.tenants";
/// The rule that is named when no rule covers this kind of identifier.
const NONE: &str = "subjects";

/// The verdict of the rules on one identifier.
enum Said {
    Granted,
    Refused(&'static str),
    Nothing,
}

/// Checks a subject against the rules.
///
/// Every identifier of a simple subject, each alias included, must be granted. A complex subject must have no refused
/// member, and either its tenant is one of the producer's, or every member is granted; beside a granted member,
/// `session` and `device` may have identifiers that mean nothing elsewhere (`opaque`, `ip-addresses`), since no rule
/// can cover them.
fn subject(rules: &SubjectRules, subject: &Subject) -> Result<(), &'static str> {
    let members = match subject {
        Subject::Simple(simple) => {
            return match identifiers(rules, simple) {
                Said::Granted => Ok(()),
                Said::Refused(rule) => Err(rule),
                Said::Nothing => Err(NONE),
            };
        }
        Subject::Complex(members) => members,
    };
    let (mut granted, mut by_tenant, mut missing) = (false, false, None);
    for (name, simple) in members {
        let is_tenant = &**name == "tenant" && *simple.format() == Format::Opaque && !rules.tenants.is_empty();
        let said = if is_tenant { tenant(rules, simple) } else { identifiers(rules, simple) };
        match said {
            Said::Refused(rule) => return Err(rule),
            Said::Granted => {
                granted = true;
                by_tenant |= is_tenant;
            }
            Said::Nothing if matches!(&**name, "session" | "device") && is_local(simple) => {}
            Said::Nothing if &**name == "tenant" => missing = Some(TENANTS),
            Said::Nothing => missing = missing.or(Some(NONE)),
        }
    }
    match missing {
        _ if by_tenant => Ok(()),
        Some(rule) => Err(rule),
        None if granted => Ok(()),
        None => Err(NONE),
    }
}

/// Returns whether an identifier means nothing without the member beside it.
fn is_local(simple: &Simple) -> bool {
    simple.identifiers().iter().all(|one| matches!(one.format(), Format::Opaque | Format::IpAddresses))
}

fn tenant(rules: &SubjectRules, simple: &Simple) -> Said {
    match simple.member("id") {
        Some(id) if rules.tenants.contains(id) => Said::Granted,
        _ => Said::Refused(TENANTS),
    }
}

fn identifiers(rules: &SubjectRules, simple: &Simple) -> Said {
    let mut all = Said::Granted;
    for one in simple.identifiers() {
        match identifier(rules, one) {
            Said::Granted => {}
            Said::Refused(rule) => return Said::Refused(rule),
            Said::Nothing => all = Said::Nothing,
        }
    }
    all
}

fn identifier(rules: &SubjectRules, simple: &Simple) -> Said {
    let (list, value, rule) = match simple.format() {
        Format::IssSub | Format::JwtId => (&rules.iss, simple.member("iss"), ISS),
        Format::SamlAssertionId => (&rules.iss, simple.member("issuer"), ISS),
        Format::Email => {
            (&rules.email_domains, simple.member("email").and_then(|text| text.rsplit('@').next()), DOMAINS)
        }
        _ => return Said::Nothing,
    };
    if list.is_empty() {
        return Said::Nothing;
    }
    let lower;
    let value = match (value, rule) {
        (Some(domain), DOMAINS) => {
            lower = domain.to_ascii_lowercase();
            lower.as_str()
        }
        (value, _) => value.unwrap_or_default(),
    };
    if list.contains(value) { Said::Granted } else { Said::Refused(rule) }
}

#[cfg(test)]
mod tests;
