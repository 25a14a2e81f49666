//! What a benchmark calls: reads and writes of the key-value stores that it knows, or any method by
//! a template. The messages of a store are written down here by the numbers of their fields, so
//! that every system is called by the same code. It sends nothing.

use http::uri::PathAndQuery;
use prost_reflect::MethodDescriptor;

use super::keys::Random;
use super::template::Template;
use crate::cli::call::signature;
use crate::cli::report::Failure;

/// Text of the keys. All are below one name, so that a run touches nothing else.
const KEY: &str = "bench/{key}";
const VALUE: &str = "{value}";

/// `GetRequest.linearizable` of `Example`: field 2, true.
const LINEARIZABLE: &[u8] = &[0x10, 1];
/// `RangeRequest.serializable` of etcd: field 7, true. Without it, a read is linearizable.
const SERIALIZABLE: &[u8] = &[0x38, 1];

/// Whose key-value store is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum System {
    /// The key-value guest: Example/Add and Example/Get
    Lockstep,
    /// etcd: etcdserverpb.KV/Put and Range
    Etcd,
    /// raft-example, whose service the key-value guest has, too
    #[value(name = "raft_example", alias = "raft-example")]
    RaftExample,
}

/// What a call of a key-value store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Operation {
    /// Writes a key
    Put,
    /// Reads a key, linearizably
    Get,
    /// Reads a key as the asked node has it; etcd calls this serializable
    #[value(name = "local_get")]
    LocalGet,
    /// Reads linearizably by --read_share, and writes otherwise
    Mixed,
}

/// A method and its requests.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) path: PathAndQuery,
    pub(super) request: Template,
    /// Fewest bytes of a reply. The reply to a read of a missing key is shorter.
    pub(super) reply_bytes_min: usize,
}

/// The calls of a run.
#[derive(Debug)]
pub(super) struct Work {
    /// The operation, or the method.
    pub(super) name: String,
    call: Call,
    /// A second kind of call, and how large its share is.
    other: Option<(f64, Call)>,
}

impl System {
    /// Returns the name as flags have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            System::Lockstep => "lockstep",
            System::Etcd => "etcd",
            System::RaftExample => "raft_example",
        }
    }

    /// Returns the call that writes a key.
    pub(super) fn put(self) -> Call {
        let path = match self {
            System::Lockstep | System::RaftExample => "/Example/Add",
            System::Etcd => "/etcdserverpb.KV/Put",
        };
        Call::of_texts(path, &[(1, KEY), (2, VALUE)], &[], 0)
    }

    /// Returns the call that reads a key, whose value has `value_bytes`.
    pub(super) fn get(self, linearizable: bool, value_bytes: usize) -> Call {
        let (path, rest) = match (self, linearizable) {
            (System::Lockstep | System::RaftExample, true) => ("/Example/Get", LINEARIZABLE),
            (System::Lockstep | System::RaftExample, false) => ("/Example/Get", &[] as &[u8]),
            (System::Etcd, true) => ("/etcdserverpb.KV/Range", &[] as &[u8]),
            (System::Etcd, false) => ("/etcdserverpb.KV/Range", SERIALIZABLE),
        };
        Call::of_texts(path, &[(1, KEY)], rest, value_bytes)
    }
}

impl Operation {
    /// Returns the name as flags have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Operation::Put => "put",
            Operation::Get => "get",
            Operation::LocalGet => "local_get",
            Operation::Mixed => "mixed",
        }
    }

    /// Tells whether keys must be there before the run.
    pub(super) fn reads(self) -> bool {
        self != Operation::Put
    }
}

impl Call {
    fn of_texts(path: &'static str, fields: &[(u32, &str)], rest: &'static [u8], reply_bytes_min: usize) -> Call {
        let request = Template::of_texts(fields, rest).expect("the texts of this file have placeholders that exist");
        Call { path: PathAndQuery::from_static(path), request, reply_bytes_min }
    }
}

impl Work {
    /// Returns the calls of an operation. `read_share` counts for mixed ones alone.
    pub(super) fn of_operation(system: System, operation: Operation, value_bytes: usize, read_share: f64) -> Work {
        let (call, other) = match operation {
            Operation::Put => (system.put(), None),
            Operation::Get => (system.get(true, value_bytes), None),
            Operation::LocalGet => (system.get(false, value_bytes), None),
            Operation::Mixed => (system.put(), Some((read_share, system.get(true, value_bytes)))),
        };
        Work { name: operation.name().to_owned(), call, other }
    }

    /// Returns the calls of a method, with requests of JSON.
    ///
    /// # Errors
    /// The method takes or returns a stream, or the JSON is no request of it.
    pub(super) fn of_method(method: &MethodDescriptor, json: &str) -> Result<Work, Failure> {
        let name = format!("{}/{}", method.parent_service().full_name(), method.name());
        if method.is_client_streaming() || method.is_server_streaming() {
            let failure = Failure::usage(format!("{name} is a stream, and a benchmark makes calls with one reply"));
            return Err(failure.hint(format!("the method is {}", signature(method))));
        }
        let request = Template::of_json(&method.input(), json).map_err(|problem| {
            let message = method.input().full_name().to_owned();
            Failure::usage(format!("--request is no {message}: {problem}"))
                .hint(format!("the method is {}", signature(method)))
        })?;
        let path = PathAndQuery::try_from(format!("/{name}"))
            .expect("protobuf names are letters, digits, dots and underscores");
        Ok(Work { name, call: Call { path, request, reply_bytes_min: 0 }, other: None })
    }

    /// Returns what is called next.
    pub(super) fn pick(&self, random: &mut Random) -> &Call {
        match &self.other {
            Some((share, other)) if random.share() < *share => other,
            _ => &self.call,
        }
    }

    /// Returns how many keys one call takes at most.
    pub(super) fn keys(&self) -> usize {
        let other = self.other.as_ref().map_or(0, |(_, other)| other.request.keys());
        self.call.request.keys().max(other)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::bench::template::Fill;
    use prost::Message;

    /// etcd's messages, as far as this program writes them.
    #[derive(Clone, PartialEq, Message)]
    struct PutRequest {
        #[prost(bytes = "vec", tag = "1")]
        key: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct RangeRequest {
        #[prost(bytes = "vec", tag = "1")]
        key: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        range_end: Vec<u8>,
        #[prost(bool, tag = "7")]
        serializable: bool,
    }

    /// The messages of `Example`.
    #[derive(Clone, PartialEq, Message)]
    struct AddRequest {
        #[prost(string, tag = "1")]
        key: String,
        #[prost(string, tag = "2")]
        val: String,
    }

    #[derive(Clone, PartialEq, Message)]
    struct GetRequest {
        #[prost(string, tag = "1")]
        key: String,
        #[prost(bool, tag = "2")]
        linearizable: bool,
    }

    fn read<M: Message + Default>(call: &Call, path: &str) -> M {
        assert_eq!(call.path.as_str(), path);
        let fill = Fill { keys: &[42], value: b"value", number: 1, client: 0 };
        M::decode(call.request.encode(&fill)).unwrap()
    }

    #[test]
    fn every_system_gets_its_own_messages() {
        for system in [System::Lockstep, System::RaftExample] {
            let put: AddRequest = read(&system.put(), "/Example/Add");
            assert_eq!((put.key.as_str(), put.val.as_str()), ("bench/42", "value"));
            for linearizable in [true, false] {
                let get: GetRequest = read(&system.get(linearizable, 5), "/Example/Get");
                assert_eq!((get.key.as_str(), get.linearizable), ("bench/42", linearizable));
            }
        }
        let put: PutRequest = read(&System::Etcd.put(), "/etcdserverpb.KV/Put");
        assert_eq!((put.key.as_slice(), put.value.as_slice()), (&b"bench/42"[..], &b"value"[..]));
        for linearizable in [true, false] {
            let get: RangeRequest = read(&System::Etcd.get(linearizable, 5), "/etcdserverpb.KV/Range");
            assert_eq!((get.key.as_slice(), get.serializable), (&b"bench/42"[..], !linearizable));
            assert!(get.range_end.is_empty());
        }
    }

    #[test]
    fn mixed_calls_read_by_their_share() {
        let work = Work::of_operation(System::Lockstep, Operation::Mixed, 256, 0.9);
        let mut random = Random::new(1);
        let reads = (0..10_000).filter(|_| work.pick(&mut random).reply_bytes_min == 256).count();
        assert!((8_800..9_200).contains(&reads), "{reads}");
        for (share, expected) in [(0.0, 0), (1.0, 100)] {
            let work = Work::of_operation(System::Etcd, Operation::Mixed, 8, share);
            let reads = (0..100).filter(|_| work.pick(&mut random).path.as_str().ends_with("/Range")).count();
            assert_eq!(reads, expected);
        }
        assert_eq!(work.keys(), 1);
    }

    #[test]
    fn names_are_those_of_the_flags() {
        use clap::ValueEnum;
        for system in System::value_variants() {
            assert_eq!(system.to_possible_value().unwrap().get_name(), system.name());
        }
        for operation in Operation::value_variants() {
            assert_eq!(operation.to_possible_value().unwrap().get_name(), operation.name());
        }
    }

    #[test]
    fn a_method_is_called_by_its_json_and_a_stream_is_refused() {
        let pool = crate::cli::manager::descriptors();
        let service = pool.get_service_by_name("RaftManager").unwrap();
        let method = service.methods().find(|method| method.name() == "Await").unwrap();
        let work = Work::of_method(&method, r#"{"operation_token": "t-{n}"}"#).unwrap();
        assert_eq!((work.name.as_str(), work.keys()), ("RaftManager/Await", 0));
        let refused = format!("{:?}", Work::of_method(&method, r#"{"operation_tokn": "{n}"}"#).unwrap_err());
        assert!(
            refused.contains("--request is no") && refused.contains("the method is RaftManager/Await"),
            "{refused}"
        );
    }
}
