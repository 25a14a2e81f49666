//! A guest of the tests with every kind of field that a message can have. Tests that the generated
//! code compiles in a crate that depends on the SDK alone, and that the fields can be stored and
//! read back. This guest is not part of the product.

use lockstep_guest::prost_types::Timestamp;
use lockstep_guest::{Command, Map, Query, Reply, Step, Value, Watch};

lockstep_guest::include_proto!();

lockstep_guest::state! {
    /// The last message, and the times of the messages.
    pub struct Kept {
        last: Value<Fields> = 1,
        times: Map<u64, Timestamp> = 2,
    }
}

impl Kinds for Kept {
    fn put(&mut self, cx: &Command, fields: Fields) -> Reply<()> {
        if let Some(at) = &fields.at {
            self.times.insert(&cx.index(), at);
        }
        self.last.set(&fields);
        Ok(())
    }

    fn ask(&self, _: &Query, question: Question) -> Reply<Fields> {
        let times = self.times.values().count();
        let last = self.last.get().unwrap_or_default();
        Ok(Fields {
            at: question.at,
            until: self.times.values().next_back(),
            parts: [(times as i32, vec![])].into(),
            ..last
        })
    }

    fn see(&self, _: &Watch, _: Question) -> Reply<Step<Fields>> {
        Ok(Step::send(self.last.get().unwrap_or_default()))
    }
}

lockstep_guest::export!(Kept: Kinds);

#[cfg(test)]
mod tests {
    use lockstep_guest::Harness;
    use lockstep_guest::prost_types::Duration;

    use super::*;

    #[test]
    fn every_kind_of_field_passes_through_a_state() {
        let time = |seconds| Timestamp { seconds, nanos: 5 };
        let mut fields = Fields {
            at: Some(time(7)),
            length: Some(Duration { seconds: -1, nanos: 0 }),
            name: Some("name".into()),
            one: Some(fields::One::Time(time(8))),
            itself: Some(Box::default()),
            ..Fields::default()
        };
        fields.numbers.extend([("b".to_owned(), 2), ("a".to_owned(), 1)]);
        fields.inner.entry(3).or_default().within.insert(true, 0.5);
        fields.insert_colours("sky".into(), Colour::Red);
        fields.set_colour(Colour::Red);
        let shown = format!("{fields:?}");
        assert!(shown.contains(r#"{"a": 1, "b": 2}"#) && shown.contains("within: {true: 0.5}"), "{shown}");

        let mut machine = Harness::<Kept>::new();
        let stream = machine.watch::<_, Fields>("every.kind.Kinds/See", &Question::default());
        machine.command::<_, ()>("every.kind.Kinds/Put", &fields).expect("it is taken");
        machine.snapshot_restore();
        assert_eq!(machine.sent(&stream).last(), Some(&fields));
        let asked = machine.query::<_, Fields>("every.kind.Kinds/Ask", &Question { at: Some(time(9)) });
        let expected = Fields { at: Some(time(9)), until: Some(time(7)), parts: [(1, vec![])].into(), ..fields };
        assert_eq!(asked, Ok(expected));
        machine.assert_replicas_agree();
    }
}
