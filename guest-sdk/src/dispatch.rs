//! Finds the handler for a method name, decodes the request and encodes the reply. Generated code
//! fills the tables. The host's exports and the harness call the same functions, so a native test
//! also tests them.

use std::fmt;

use prost::Message;

use crate::context::{Command, Query, Watch};
use crate::shape::Shape;
use crate::snapshot::Format;
use crate::status::{Reply, Status};
use crate::step::Step;
use crate::tags::Tags;

/// A struct of collections, made by [`state!`](crate::state).
pub trait State: Sized + 'static {
    #[doc(hidden)]
    const COLLECTIONS: &'static [Tags] = &[];

    /// Returns the handles of the collections. Reads nothing.
    fn open() -> Self;
}

/// A collection that `state!` can declare.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a field of the state",
    label = "not a collection of the store",
    note = "a field of the state is a `Map` (also for what would be a `HashMap` or `BTreeMap`), a `Set` (a `HashSet`, `BTreeSet`), \
            a `Value` (one value of a type), a `Counter` or a `Table` of `lockstep_guest`",
    note = "they are ordered, and every node holds them in the same order; a hash map's order differs from node to node"
)]
pub trait Collection {
    /// Type of the collection's rows.
    const ROWS: Shape;
    /// Tags of the collection's indexes.
    const INDEX_TAGS: &'static [u16] = &[];
    /// Types of the entries of these indexes.
    const INDEX_ENTRIES: &'static [Shape] = &[];

    /// Returns the handle of the collection with this tag.
    fn at(tag: u16) -> Self;
}

/// A state with the services that it serves, made by [`export!`](crate::export).
pub trait Machine: State {
    /// How snapshots are written and read.
    type Snapshots: Format;
    #[doc(hidden)]
    const METHODS: &'static [&'static [Method<Self>]];
}

/// One method in the table of a service.
pub struct Method<S> {
    name: &'static str,
    handler: Handler<S>,
}

type CommandHandler<S> = fn(&mut S, &Command, &[u8]) -> Reply<Vec<u8>>;
type QueryHandler<S> = fn(&S, &Query, &[u8]) -> Reply<Vec<u8>>;
type WatchHandler<S> = fn(&S, &Watch, &[u8]) -> Reply<Step<Vec<u8>>>;

enum Handler<S> {
    Command(CommandHandler<S>),
    Query(QueryHandler<S>),
    Watch(WatchHandler<S>),
}

impl<S> Method<S> {
    /// Makes the row of a command.
    pub const fn command(name: &'static str, handler: CommandHandler<S>) -> Self {
        let handler = Handler::Command(handler);
        Self { name, handler }
    }

    /// Makes the row of a query.
    pub const fn query(name: &'static str, handler: QueryHandler<S>) -> Self {
        let handler = Handler::Query(handler);
        Self { name, handler }
    }

    /// Makes the row of a watch.
    pub const fn watch(name: &'static str, handler: WatchHandler<S>) -> Self {
        let handler = Handler::Watch(handler);
        Self { name, handler }
    }

    fn kind(&self) -> &'static str {
        match self.handler {
            Handler::Command(_) => "command",
            Handler::Query(_) => "query",
            Handler::Watch(_) => "watch",
        }
    }
}

impl<S> fmt::Debug for Method<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name)
    }
}

/// Decodes a request, calls the handler and encodes the reply.
pub fn serve<Q: Message + Default, R: Message>(
    method: &str,
    request: &[u8],
    handler: impl FnOnce(Q) -> Reply<R>,
) -> Reply<Vec<u8>> {
    Ok(handler(decode(method, request)?)?.encode_to_vec())
}

/// Does what [`serve`] does, for a step of a watch.
pub fn serve_step<Q: Message + Default, R: Message>(
    method: &str,
    request: &[u8],
    handler: impl FnOnce(Q) -> Reply<Step<R>>,
) -> Reply<Step<Vec<u8>>> {
    Ok(handler(decode(method, request)?)?.map(|reply| reply.encode_to_vec()))
}

fn decode<Q: Message + Default>(method: &str, request: &[u8]) -> Result<Q, Status> {
    Q::decode(request)
        .map_err(|error| Status::invalid_argument(format!("{method}: the request cannot be decoded: {error}")))
}

/// Runs a command.
pub(crate) fn apply<M: Machine>(cx: &Command, name: &str, request: &[u8]) -> Reply<Vec<u8>> {
    let method = find::<M>(name)?;
    match method.handler {
        Handler::Command(handler) => handler(&mut M::open(), cx, request),
        _ => Err(wrong_kind(method, "command")),
    }
}

/// Runs a query.
pub(crate) fn query<M: Machine>(cx: &Query, name: &str, request: &[u8]) -> Reply<Vec<u8>> {
    let method = find::<M>(name)?;
    match method.handler {
        Handler::Query(handler) => handler(&M::open(), cx, request),
        _ => Err(wrong_kind(method, "query")),
    }
}

/// Runs a step of a watch.
pub(crate) fn watch<M: Machine>(cx: &Watch, name: &str, request: &[u8]) -> Reply<Step<Vec<u8>>> {
    let method = find::<M>(name)?;
    match method.handler {
        Handler::Watch(handler) => handler(&M::open(), cx, request),
        _ => Err(wrong_kind(method, "watch")),
    }
}

fn find<M: Machine>(name: &str) -> Result<&'static Method<M>, Status> {
    M::METHODS
        .iter()
        .flat_map(|service| service.iter())
        .find(|method| method.name == name)
        .ok_or_else(|| Status::unimplemented(format!("{name}: this machine has no such method")))
}

fn wrong_kind<S>(method: &Method<S>, called_as: &str) -> Status {
    let (name, kind) = (method.name, method.kind());
    Status::unimplemented(format!("{name} is a {kind} and was called as a {called_as}"))
}
