//! A guest of the tests that does what no guest may: it keeps state in a static, so that its answers depend on which commands shared an
//! instance. `lockstep guest test` must find it. Not part of what users get.

use std::sync::atomic::{AtomicU64, Ordering};

use lockstep_guest::{Command, Query, Status, Value};

lockstep_guest::include_proto!();

lockstep_guest::state! {
    /// One number that is kept where it belongs, and one that is not.
    pub struct Numbers {
        kept: Value<u64> = 1,
        leaked: Value<u64> = 2,
    }
}

/// Calls of `Leaky`, `Silent` and `Peek` that this instance has served.
static SERVED: AtomicU64 = AtomicU64::new(0);

fn served() -> u64 {
    SERVED.fetch_add(1, Ordering::Relaxed) + 1
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

    fn refuse(&mut self, _: &Command, _: Request) -> lockstep_guest::Reply<Reply> {
        Err(Status::failed_precondition("held by ann").with_reason("HELD", "statics"))
    }

    fn peek(&self, _: &Query, _: Request) -> lockstep_guest::Reply<Reply> {
        Ok(Reply { count: served() })
    }

    fn clock(&self, cx: &Query, _: Request) -> lockstep_guest::Reply<Reply> {
        Ok(Reply { count: cx.time_ms() })
    }
}

lockstep_guest::export!(Numbers: Statics);
