//! Shows the requests and replies of a rehearsal or a replay by the contracts that they belong to,
//! as JSON. If they are to be kept quiet, it leaves their contents out. It compares nothing.

use lockstep_contract::Contract;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use serde::Serialize;
use serde_json::{Value, json};
use tonic::Code;

use crate::api::http::metrics::code_name;
use crate::api::status::reason_name;
use crate::machine::RehearsalReport;
use crate::machine::rehearsal::report::{AnswerDifference, AnswerReport, Body, DIFFERENCES_MAX};

/// Most differences whose contents are shown to people. Programs get all that a report has.
const SHOWN_MAX: usize = 10;

/// Shows what machines answered.
pub(crate) struct Answers {
    old: Option<DescriptorPool>,
    new: DescriptorPool,
    quiet: bool,
}

impl Answers {
    /// Shows answers of the machines with these contracts. With `quiet` nothing of a request or a
    /// reply is shown.
    pub(crate) fn new(old: Option<&Contract>, new: &Contract, quiet: bool) -> Answers {
        Answers { old: old.map(pool), new: pool(new), quiet }
    }

    /// Returns a node's report as JSON, with the requests and replies of its differences so that
    /// they can be read.
    pub(crate) fn shown(&self, report: &impl Serialize, differences: &[AnswerDifference]) -> Value {
        let mut shown = serde_json::to_value(report).unwrap_or_else(|error| json!({ "@error": error.to_string() }));
        shown["differences"] = differences.iter().map(|found| self.of_difference(found)).collect();
        shown
    }

    /// Returns the first differences of all reports as lines for people, each once.
    pub(super) fn lines(&self, reports: &[(String, RehearsalReport)]) -> String {
        self.lines_of(reports.iter().flat_map(|(_, report)| &report.differences))
    }

    /// Returns the first of these differences as lines for people, each once, and how many more
    /// programs get.
    pub(crate) fn lines_of<'a>(&self, differences: impl Iterator<Item = &'a AnswerDifference>) -> String {
        if self.quiet {
            return String::new();
        }
        let mut distinct: Vec<&AnswerDifference> = Vec::new();
        for found in differences {
            let is_known = distinct.iter().any(|known| is_same_call(known, found));
            if distinct.len() < DIFFERENCES_MAX && !is_known {
                distinct.push(found);
            }
        }
        let mut text = String::new();
        for found in distinct.iter().take(SHOWN_MAX) {
            let place = found.index.map_or("a query".to_owned(), |index| format!("entry {index}.{}", found.position));
            let object = self.of_difference(found);
            text.push_str(&format!("\n  {place}: {} {}", found.method, object["request"]));
            text.push_str(&format!("\n    before  {}\n    after   {}", object["old"], object["new"]));
        }
        let more = distinct.len().saturating_sub(SHOWN_MAX);
        if more > 0 {
            text.push_str(&format!("\n  and {more} more; --json has the first {DIFFERENCES_MAX}"));
        }
        text
    }

    fn of_difference(&self, found: &AnswerDifference) -> Value {
        let AnswerDifference { index, position, method, .. } = found;
        if self.quiet {
            let (old, new) = (found.old.words(), found.new.words());
            return json!({ "index": index, "position": position, "method": method, "old": old, "new": new });
        }
        let (old, new) = (self.old.as_ref().and_then(|pool| shape(pool, method)), shape(&self.new, method));
        let request = old.as_ref().or(new.as_ref()).map(MethodDescriptor::input);
        json!({
            "index": index, "position": position, "method": method, "caller": found.caller,
            "request": of_body(&found.request, request),
            "old": of_answer(&found.old, old.as_ref()),
            "new": of_answer(&found.new, new.as_ref()),
        })
    }
}

fn pool(contract: &Contract) -> DescriptorPool {
    DescriptorPool::decode(contract.encoded()).expect("a contract was read from this descriptor")
}

/// Returns the declaration of a method, by its name `package.Service/Method`.
fn shape(pool: &DescriptorPool, method: &str) -> Option<MethodDescriptor> {
    let (service, method) = method.split_once('/')?;
    pool.get_service_by_name(service)?.methods().find(|found| found.name() == method)
}

fn is_same_call(one: &AnswerDifference, other: &AnswerDifference) -> bool {
    let place =
        |found: &AnswerDifference| (found.index, found.position, found.index.is_none().then(|| found.request.clone()));
    one.method == other.method && place(one) == place(other)
}

fn of_answer(answer: &AnswerReport, method: Option<&MethodDescriptor>) -> Value {
    match answer {
        AnswerReport::Reply(reply) => json!({ "reply": of_body(reply, method.map(MethodDescriptor::output)) }),
        AnswerReport::Refused { code, message, .. } => {
            let code = code_name(Code::from_i32(i32::try_from(*code).unwrap_or(0)));
            json!({ "refused": code, "message": message })
        }
        AnswerReport::Failed { reason, detail } => json!({ "failed": reason_name(*reason), "detail": detail }),
    }
}

/// Shows a message by its declaration. One that cannot be shown so is shown by its bytes.
fn of_body(body: &Body, declared: Option<MessageDescriptor>) -> Value {
    let Some(bytes) = body.decode() else { return json!({ "@bytes": body.bytes, "@error": "too large to be shown" }) };
    let message = declared.and_then(|declared| DynamicMessage::decode(declared, bytes.as_slice()).ok());
    match message.and_then(|message| serde_json::to_value(message).ok()) {
        Some(shown) => shown,
        None => json!({ "@base64": body.base64 }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;
    use crate::api::example_contract;
    use crate::guest::Reason;

    fn body(bytes: &[u8]) -> Body {
        Body { bytes: bytes.len() as u64, base64: Some(BASE64_STANDARD.encode(bytes)) }
    }

    fn difference(new: AnswerReport) -> AnswerDifference {
        AnswerDifference {
            index: Some(12),
            position: 3,
            method: "Example/Add".into(),
            caller: "ann".into(),
            request: body(b"\x0a\x01k"),
            old: AnswerReport::Reply(body(&[8, 7])),
            new,
        }
    }

    fn reports(found: AnswerDifference) -> Vec<(String, RehearsalReport)> {
        let report = || RehearsalReport { differences: vec![found.clone()], ..RehearsalReport::default() };
        vec![("nodeA".into(), report()), ("nodeB".into(), report())]
    }

    #[test]
    fn requests_and_replies_are_shown_by_the_contract() {
        let contract = example_contract();
        let answers = Answers::new(Some(&contract), &contract, false);
        let found = difference(AnswerReport::Failed { reason: Reason::Trap, detail: "at 7".into() });
        let shown = answers.of_difference(&found);
        assert_eq!(shown["request"], json!({ "key": "k" }));
        assert_eq!(shown["old"], json!({ "reply": { "commitIndex": "7" } }));
        assert_eq!(shown["new"], json!({ "failed": "trap", "detail": "at 7" }));
        let lines = answers.lines(&reports(found));
        assert_eq!(lines.matches("entry 12.3: Example/Add {\"key\":\"k\"}").count(), 1, "{lines}");
        assert!(!lines.contains("more"), "{lines}");
    }

    #[test]
    fn more_differences_than_people_read_are_counted() {
        let contract = example_contract();
        let found = |position| AnswerDifference {
            position,
            ..difference(AnswerReport::Failed { reason: Reason::Trap, detail: String::new() })
        };
        let found: Vec<AnswerDifference> = (0..12).chain(0..3).map(found).collect();
        let lines = Answers::new(None, &contract, false).lines_of(found.iter());
        assert_eq!(lines.matches("\n  entry 12.").count(), SHOWN_MAX, "{lines}");
        assert!(lines.ends_with("\n  and 2 more; --json has the first 100"), "{lines}");
        assert_eq!(Answers::new(None, &contract, true).lines_of(found.iter()), "");
    }

    #[test]
    fn what_cannot_be_read_is_shown_by_its_bytes() {
        let contract = example_contract();
        let answers = Answers::new(None, &contract, false);
        let mut found = difference(AnswerReport::Reply(body(&[0xff])));
        assert_eq!(answers.of_difference(&found)["new"], json!({ "reply": { "@base64": "/w==" } }));
        found.request = Body { bytes: 1 << 20, base64: None };
        assert_eq!(answers.of_difference(&found)["request"]["@bytes"], json!(1 << 20));
    }

    #[test]
    fn quiet_shows_nothing_of_what_clients_sent_and_got() {
        let contract = example_contract();
        let answers = Answers::new(Some(&contract), &contract, true);
        let refused = AnswerReport::Refused { code: 5, message: "secret".into(), details: Body::default() };
        let reports = reports(difference(refused));
        assert_eq!(answers.lines(&reports), "");
        let shown = answers.shown(&reports[0].1, &reports[0].1.differences)["differences"][0].clone();
        assert_eq!((&shown["method"], shown.get("request"), shown.get("caller")), (&json!("Example/Add"), None, None));
    }
}
