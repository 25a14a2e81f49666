//! RPCs as the command line knows them: their names, their usage and their requests, all made from
//! the descriptor. An [`Extra`] is what one RPC has beyond that. This file knows no RPC by name,
//! makes no call, and prints nothing.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MethodDescriptor, ServiceDescriptor, Value};
use tonic::Status;

use super::json::{Tree, read_message};
use super::report::Failure;
use super::similar::{similar, suggestion};
use super::text::snake_case;

/// Fields without presence that may be left out on the command line all the same. Their zero value
/// means "without".
const OPTIONAL_FIELDS: [&str; 2] = ["previous_index", "extensions"];

/// An RPC with one request and one reply.
#[derive(Clone, Debug)]
pub(crate) struct Rpc {
    pub(crate) method: MethodDescriptor,
    pub(crate) extra: Extra,
}

/// What the command line adds to what the descriptor says of an RPC.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extra {
    /// Full name of the RPC, such as `lockstep.v1.Admin.Resync`.
    pub(crate) rpc: &'static str,
    /// A sentence about the RPC, for the help. It may be empty.
    pub(crate) about: &'static str,
    /// Arguments that are not what the descriptor says of their fields.
    pub(crate) arguments: &'static [Argument],
    /// Whether the leader alone serves it, so that it is found from any node.
    pub(crate) finds_leader: bool,
    /// Refuses `--leader`, for an RPC that no leader serves.
    pub(crate) refuse_leader: Option<fn() -> Failure>,
    /// Says the reply in words of its own. Neither request nor reply is shown as a message then.
    pub(crate) answer: Option<Say>,
    /// Says the reply as JSON, for `--json`.
    pub(crate) json: Option<Say>,
    /// Returns what to do about the request that failed with this status.
    pub(crate) hint: Option<fn(&DynamicMessage, &Status) -> Option<String>>,
}

/// Says a reply.
pub(crate) type Say = fn(&Answered<'_>) -> anyhow::Result<String>;

/// Reads one word of the command line as the value of a field.
pub(crate) type ReadWord = fn(&str) -> Result<Value, Failure>;

/// How one field is given on the command line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Argument {
    /// Name of the field.
    pub(crate) field: &'static str,
    /// Name of the argument in the usage.
    pub(crate) name: &'static str,
    /// Whether the argument may be left out.
    pub(crate) is_optional: bool,
    /// Reads the word, if that differs from how words of the field's type are read.
    pub(crate) read: Option<ReadWord>,
}

/// A call that succeeded.
#[derive(Debug)]
pub(crate) struct Answered<'a> {
    /// The address as it was typed.
    pub(crate) addr: &'a str,
    pub(crate) request: &'a DynamicMessage,
    pub(crate) reply: &'a DynamicMessage,
}

impl Extra {
    /// Adds nothing.
    pub(crate) const NONE: Extra = Extra {
        rpc: "",
        about: "",
        arguments: &[],
        finds_leader: false,
        refuse_leader: None,
        answer: None,
        json: None,
        hint: None,
    };
}

/// Returns the RPCs of the services that have one request and one reply, in the order of the
/// protos.
pub(crate) fn of(services: &[ServiceDescriptor], extras: &[Extra]) -> Vec<Rpc> {
    let methods = services.iter().flat_map(ServiceDescriptor::methods);
    let unary = methods.filter(|method| !method.is_client_streaming() && !method.is_server_streaming());
    let with_extra = unary.map(|method| {
        let extra = extras.iter().find(|extra| extra.rpc == method.full_name());
        Rpc { extra: extra.copied().unwrap_or(Extra::NONE), method }
    });
    with_extra.collect()
}

/// Returns the RPC of this name, written as `add_voter`, `add-voter` or `AddVoter`.
pub(crate) fn find<'a>(rpcs: &'a [Rpc], name: &str) -> Result<&'a Rpc, Failure> {
    let snake = name.replace('-', "_");
    let found = rpcs.iter().find(|rpc| rpc.method.name() == name || rpc.name() == snake);
    found.ok_or_else(|| {
        let names: Vec<String> = rpcs.iter().map(Rpc::name).collect();
        let close = similar(name, names.iter().map(String::as_str)).into_iter().map(str::to_owned);
        Failure::usage(format!("there is no RPC {name:?}")).hint(suggestion(&close.collect::<Vec<_>>(), &names))
    })
}

impl Rpc {
    /// Returns the RPC as its descriptor says, with nothing added.
    pub(crate) fn plain(method: MethodDescriptor) -> Rpc {
        Rpc { method, extra: Extra::NONE }
    }

    /// Returns the name in the spelling of the command line.
    pub(crate) fn name(&self) -> String {
        snake_case(self.method.name())
    }

    /// Returns, for example, `add_voter <id> <address> [previous_index]`.
    pub(crate) fn usage(&self) -> String {
        let mut words = vec![self.name()];
        for field in self.fields() {
            let name = self.argument(&field).map_or(field.name(), |argument| argument.name);
            words.push(match self.rank(&field) {
                Rank::Required => format!("<{name}>"),
                Rank::Optional => format!("[{name}]"),
                Rank::Rest => format!("[{name}]..."),
            });
        }
        words.join(" ")
    }

    /// Returns the request whose fields, in the order of the usage, have these words as values.
    pub(crate) fn request(&self, words: &[String]) -> Result<DynamicMessage, Failure> {
        let fields = self.fields();
        let count = |wanted: Rank| fields.iter().filter(|field| self.rank(field) == wanted).count();
        let takes_more = count(Rank::Rest) > 0;
        if words.len() < count(Rank::Required) || (words.len() > fields.len() && !takes_more) {
            let failure = Failure::usage(format!("{} was given {} arguments", self.name(), words.len()));
            return Err(self.with_usage(failure));
        }
        let mut message = DynamicMessage::new(self.method.input());
        for (at, (field, word)) in fields.iter().zip(words).enumerate() {
            if self.rank(field) == Rank::Rest {
                let values: Result<Vec<Value>, Failure> = words[at..].iter().map(|word| value(field, word)).collect();
                message.set_field(field, Value::List(values?));
                continue;
            }
            let read = self.argument(field).and_then(|argument| argument.read);
            message.set_field(field, read.map_or_else(|| value(field, word), |read| read(word))?);
        }
        Ok(message)
    }

    /// Adds to a failure how the RPC is used.
    fn with_usage(&self, failure: Failure) -> Failure {
        failure.hint(format!("it is used as: {}", self.usage()))
    }

    /// Returns the fields that have an argument, in the order of the arguments. A list takes all
    /// words that are left, so there is no argument behind a list.
    fn fields(&self) -> Vec<FieldDescriptor> {
        let mut fields: Vec<FieldDescriptor> = self.method.input().fields().collect();
        fields.sort_by_key(|field| (self.rank(field), field.number()));
        let list = fields.iter().position(|field| self.rank(field) == Rank::Rest);
        fields.truncate(list.map_or(fields.len(), |at| at + 1));
        fields
    }

    fn argument(&self, field: &FieldDescriptor) -> Option<&'static Argument> {
        self.extra.arguments.iter().find(|argument| argument.field == field.name())
    }

    fn rank(&self, field: &FieldDescriptor) -> Rank {
        let by_descriptor = || field.supports_presence() || OPTIONAL_FIELDS.contains(&field.name());
        match self.argument(field).map_or_else(by_descriptor, |argument| argument.is_optional) {
            _ if field.is_list() || field.is_map() => Rank::Rest,
            true => Rank::Optional,
            false => Rank::Required,
        }
    }
}

/// The place of an argument among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Required,
    Optional,
    /// All words that are left.
    Rest,
}

/// Reads one word as a value of the field, or of its list.
fn value(field: &FieldDescriptor, word: &str) -> Result<Value, Failure> {
    let name = field.name();
    let refused = |problem: &str| Failure::usage(format!("{name}: {problem}"));
    let not_a = |what: &str| refused(&format!("{word:?} is not {what}"));
    if field.is_map() {
        return Err(Failure::usage(format!("{name} is a map, which the command line cannot say")));
    }
    match field.kind() {
        Kind::String => Ok(Value::String(word.to_owned())),
        Kind::Uint64 | Kind::Fixed64 => word.parse().map(Value::U64).map_err(|_| not_a("a number from 0 up")),
        Kind::Uint32 | Kind::Fixed32 => word.parse().map(Value::U32).map_err(|_| not_a("a number from 0 to 2^32-1")),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => word.parse().map(Value::I64).map_err(|_| not_a("a number")),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            word.parse().map(Value::I32).map_err(|_| not_a("a number of 32 bits"))
        }
        Kind::Double => word.parse().map(Value::F64).map_err(|_| not_a("a number")),
        Kind::Float => word.parse().map(Value::F32).map_err(|_| not_a("a number")),
        Kind::Bool => word.parse().map(Value::Bool).map_err(|_| not_a("true or false")),
        Kind::Bytes => bytes(word).map(Value::Bytes).map_err(|problem| refused(&problem)),
        Kind::Enum(kind) => match kind.get_value_by_name(word) {
            Some(value) => Ok(Value::EnumNumber(value.number())),
            None => {
                let names: Vec<String> = kind.values().map(|value| value.name().to_owned()).collect();
                Err(not_a(&format!("one of {}", names.join(", "))))
            }
        },
        Kind::Message(message) => {
            let read = Tree::parse(word).and_then(|json| read_message(&message, &json));
            read.map(Value::Message).map_err(|problem| refused(&format!("it is written as JSON: {problem}")))
        }
    }
}

/// Reads bytes that are given as text, as `hex:...`, or as the contents of `@file`.
fn bytes(word: &str) -> Result<bytes::Bytes, String> {
    if let Some(path) = word.strip_prefix('@') {
        let contents = std::fs::read(path).map_err(|error| format!("cannot read {path}: {error}"))?;
        return Ok(contents.into());
    }
    let Some(hex) = word.strip_prefix("hex:") else {
        return Ok(word.to_owned().into());
    };
    let odd = || format!("{hex:?} is not pairs of hexadecimal digits");
    if !hex.is_ascii() || hex.len() % 2 != 0 {
        return Err(odd());
    }
    let pairs = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16));
    pairs.collect::<Result<Vec<u8>, _>>().map(Into::into).map_err(|_| odd())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::cli::manager::{self, known};
    use crate::cli::text::{self, Defaults};

    /// A service that no code of this program knows.
    const MADE_UP: &str = r#"
        syntax = "proto3";
        package made.up;
        service Gardener {
          rpc WaterPlants(WaterPlantsRequest) returns (WaterPlantsResponse);
          rpc Rest(RestRequest) returns (WaterPlantsResponse);
          rpc Watch(RestRequest) returns (stream WaterPlantsResponse);
        }
        enum Can { SMALL = 0; LARGE = 1; }
        message Place { string bed = 1; }
        message WaterPlantsRequest {
          repeated string names = 1;
          optional uint32 litres = 2;
          Can can = 3;
          Place place = 4;
          bool twice = 5;
        }
        message RestRequest { map<string, string> where = 1; }
        message WaterPlantsResponse { uint64 index = 1; }
    "#;

    fn made_up() -> Vec<Rpc> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("made_up.proto"), MADE_UP).unwrap();
        let set = protox::compile(["made_up.proto"], [directory.path()]).unwrap();
        let pool = DescriptorPool::from_file_descriptor_set(set).unwrap();
        of(&[pool.get_service_by_name("made.up.Gardener").unwrap()], &[])
    }

    fn shown(rpc: &Rpc, arguments: &[&str]) -> Result<String, String> {
        let words: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        let request = rpc.request(&words);
        request.map(|message| text::format(&message, Defaults::Hidden)).map_err(|failure| failure.to_string())
    }

    #[test]
    fn an_rpc_of_any_service_is_used_by_its_descriptor_alone() {
        let rpcs = made_up();
        assert_eq!(rpcs.iter().map(Rpc::name).collect::<Vec<_>>(), ["water_plants", "rest"], "no streams");
        let water = find(&rpcs, "water-plants").unwrap();
        assert_eq!(water.usage(), "water_plants <can> <twice> [litres] [place] [names]...");
        let full = shown(water, &["LARGE", "true", "7", r#"{"bed": "b"}"#, "rose", "fern"]).unwrap();
        for field in ["names: \"rose\"", "names: \"fern\"", "litres: 7", "can: LARGE", "twice: true", "bed: \"b\""] {
            assert!(full.contains(field), "{field}: {full}");
        }
        assert_eq!(shown(water, &["LARGE", "false"]).unwrap(), "can: LARGE");
        let table: [(&[&str], &str); 6] = [
            (&["LARGE"], "1 arguments"),
            (&["HUGE", "true"], "one of SMALL, LARGE"),
            (&["LARGE", "yes"], "true or false"),
            (&["LARGE", "true", "-1"], "litres"),
            (&["LARGE", "true", "1", "b"], "JSON"),
            (&["LARGE", "true", "1", r#"{"bad": 1}"#], "bad"),
        ];
        for (arguments, problem) in table {
            let error = shown(water, arguments).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
        assert!(shown(&rpcs[1], &["here"]).unwrap_err().contains("where is a map"));
        assert!(format!("{:?}", find(&rpcs, "water_plnts").unwrap_err()).contains("did you mean water_plants"));
    }

    #[test]
    fn all_twenty_rpcs_of_the_manager_are_known_by_their_snake_case_names() {
        let rpcs = of(&[manager::service()], &[]);
        assert_eq!(rpcs.len(), 20);
        for rpc in &rpcs {
            assert_eq!(find(&rpcs, &rpc.name()).unwrap().method, rpc.method);
        }
        assert_eq!(find(&rpcs, "AddVoter").unwrap().method, find(&rpcs, "add-voter").unwrap().method);
        assert!(find(&rpcs, "add_vote").is_err());
    }

    #[test]
    fn words_become_fields_in_order() {
        let expected = r#"id: "nodeB" address: "localhost:50052" previous_index: 3"#;
        assert_eq!(shown(&known("AddVoter"), &["nodeB", "localhost:50052", "3"]).unwrap(), expected);
        assert_eq!(shown(&known("DemoteVoter"), &["nodeB"]).unwrap(), r#"id: "nodeB""#);
        assert_eq!(shown(&known("ApplyLog"), &["hex:0a01ff"]).unwrap(), r#"data: "\n\x01\xff""#);
        assert_eq!(shown(&known("State"), &[]).unwrap(), "");
    }

    #[test]
    fn wrong_words_are_refused() {
        let table: [(&str, &[&str], &str); 5] = [
            ("AddVoter", &["nodeB"], "1 arguments"),
            ("State", &["x"], "1 arguments"),
            ("AddVoter", &["b", "a:1", "-3"], "previous_index"),
            ("ApplyLog", &["hex:0"], "hexadecimal"),
            ("ApplyLog", &["@/nonexistent"], "cannot read"),
        ];
        for (name, arguments, problem) in table {
            let error = shown(&known(name), arguments).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn usage_marks_what_may_be_left_out() {
        assert_eq!(known("AddVoter").usage(), "add_voter <id> <address> [previous_index]");
        assert_eq!(known("Barrier").usage(), "barrier");
    }
}
