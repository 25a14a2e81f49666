//! A guest of the tests whose `.proto` files use every name that is difficult in Rust. Most of the
//! test is that it compiles. The code below shows what an author writes for such names. This guest
//! is not part of the product.

use std::time::Duration;

use lockstep_guest::{Command, Map, Query, Reply};

lockstep_guest::include_proto!();

lockstep_guest::state! {
    /// Texts by name.
    pub struct Kept {
        texts: Map<String, String> = 1,
    }
}

/// Types of the standard library keep their names. Those of the `.proto` are in the module of their
/// package.
type Taken = Option<lockstep_proto::lockstep_guest::Result>;

impl Std for Kept {
    fn getX(
        &mut self,
        _: &Command,
        request: lockstep_proto::lockstep_guest::Result,
    ) -> Reply<lockstep_proto::lockstep_guest::Vec> {
        let kept: Vec<String> = Taken::Some(request).into_iter().map(|request| request.vec).collect();
        self.texts.insert("x", &kept.join(" "));
        Ok(lockstep_proto::lockstep_guest::Vec { option: kept })
    }

    fn GetX(&self, _: &Query, _: lockstep_proto::lockstep_guest::Result) -> Reply<lockstep_proto::lockstep_guest::Vec> {
        Ok(lockstep_proto::lockstep_guest::Vec { option: self.texts.get("x").into_iter().collect() })
    }

    fn open(&mut self, cx: &Command, request: Core) -> Reply<Core> {
        debug_assert!(cx.time() > Duration::ZERO);
        Ok(request)
    }
}

lockstep_guest::export!(Kept: Std);

#[cfg(test)]
mod tests {
    use lockstep_guest::Harness;

    use super::*;

    #[test]
    fn methods_that_rust_would_call_alike_are_two() {
        let mut machine = Harness::<Kept>::new();
        let request = lockstep_proto::lockstep_guest::Result { vec: "one".into(), blob: None };
        let reply = machine.command::<_, lockstep_proto::lockstep_guest::Vec>("lockstep_guest.Std/getX", &request);
        assert_eq!(reply, machine.query("lockstep_guest.Std/GetX", &request));
        assert_eq!(reply.map(|reply| reply.option), Ok(vec!["one".to_owned()]));
        assert_eq!(machine.command("lockstep_guest.Std/Open", &Core { kind: 1 }), Ok(Core { kind: 1 }));
    }
}
