//! A guest of the tests that breaks a rule: it keeps state in a static, so its answers depend on
//! which commands shared an instance. `lockstep guest test` must detect that. This guest is not
//! part of the product.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstep_guest::{Cause, Command, Query, Status, Step, Value, Watch};

lockstep_guest::include_proto!();

lockstep_guest::state! {
    /// One number that is kept in the store alone, one that depends on a static, and a name.
    pub struct Numbers {
        kept: Value<u64> = 1,
        leaked: Value<u64> = 2,
        signed_by: Value<String> = 3,
    }
}

/// Calls of `Leaky`, `Silent` and `Peek` that this instance has served.
static SERVED: AtomicU64 = AtomicU64::new(0);

fn served() -> u64 {
    SERVED.fetch_add(1, Ordering::Relaxed) + 1
}

fn refusal(request: &Request) -> Status {
    let refusal = Status::failed_precondition(if request.letters == 0 {
        "held by ann".into()
    } else {
        "ü".repeat(request.letters as usize)
    });
    match request.detail_bytes {
        0 => refusal.with_reason("HELD", "statics"),
        bytes => refusal.with_details(vec![7; bytes as usize]),
    }
}

impl Statics for Numbers {
    fn sound(&mut self, _: &Command, _: Request) -> lockstep_guest::Reply<Reply> {
        let count = self.kept.get().unwrap_or_default() + 1;
        self.kept.set(&count);
        Ok(Reply { count })
    }

    fn leaky(&mut self, _: &Command, _: Request) -> lockstep_guest::Reply<Reply> {
        Ok(Reply { count: served() })
    }

    fn silent(&mut self, _: &Command, _: Request) -> lockstep_guest::Reply<Reply> {
        self.leaked.set(&served());
        Ok(Reply { count: 0 })
    }

    fn refuse(&mut self, _: &Command, request: Request) -> lockstep_guest::Reply<Reply> {
        Err(refusal(&request))
    }

    fn refuse_later(&self, cx: &Watch, request: Request) -> lockstep_guest::Reply<Step<Reply>> {
        match cx.cause() {
            Cause::Start => Ok(Step::send(Reply { count: 1 }).or_after(Duration::from_millis(1))),
            _ => Err(refusal(&request)),
        }
    }

    fn peek(&self, _: &Query, _: Request) -> lockstep_guest::Reply<Reply> {
        Ok(Reply { count: served() })
    }

    fn clock(&self, cx: &Query, _: Request) -> lockstep_guest::Reply<Reply> {
        Ok(Reply { count: cx.time_ms() })
    }

    fn sign(&mut self, cx: &Command, _: Request) -> lockstep_guest::Reply<Signature> {
        self.signed_by.set(&cx.caller());
        Ok(Signature { caller: cx.caller(), signed_by: cx.caller() })
    }

    fn ask(&self, cx: &Query, _: Request) -> lockstep_guest::Reply<Signature> {
        Ok(Signature { caller: cx.caller(), signed_by: self.signed_by.get().unwrap_or_default() })
    }

    fn look(&self, cx: &Watch, _: Request) -> lockstep_guest::Reply<Step<Signature>> {
        Ok(Step::send(Signature { caller: cx.caller(), signed_by: self.signed_by.get().unwrap_or_default() }))
    }
}

lockstep_guest::export!(Numbers: Statics);
