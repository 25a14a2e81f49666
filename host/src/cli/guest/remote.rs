//! The other end of `lockstep guest serve`'s pipe: the harness as the store, the streams, the node and the log of a guest. It forwards, and
//! knows nothing of what comes back; when the harness is gone, this process goes as well.

use std::any::Any;
use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context, anyhow};
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context as LayerContext, Layer, SubscriberExt};

use super::serve::frames::{
    self, Answer, Call, Came, FromGuest, Hello, Line, Outcome, Range as WireRange, Row, Said, ToGuest, Told,
};
use crate::guest::{Page, Range, SnapshotSink, SnapshotSource, Store, StoreFault};

/// The harness. Clones are the same one.
#[derive(Clone)]
pub(super) struct Remote(Arc<Mutex<Pipe>>);

struct Pipe {
    to: File,
    from: Receiver<ToGuest>,
    /// A rule of the harness ended the call that is running.
    ended: bool,
}

/// How this process is to end, given how the pipe did.
type Exit = fn(anyhow::Result<()>) -> !;

impl Remote {
    /// Speaks through stdin and this; log lines of guests go there, too. Calls `exit` when stdin ends, also in the middle of a call.
    pub(super) fn open(to: File, exit: Exit) -> anyhow::Result<Remote> {
        // The harness says one thing at a time.
        let (sender, from) = sync_channel(1);
        let reading = move || {
            let mut stdin = std::io::stdin().lock();
            loop {
                match frames::read(&mut stdin) {
                    Ok(Some(frame)) => {
                        if sender.send(frame).is_err() {
                            return;
                        }
                    }
                    Ok(None) => exit(Ok(())),
                    Err(error) => exit(Err(anyhow!(error).context("cannot read what the harness says"))),
                }
            }
        };
        std::thread::Builder::new().name("harness".into()).spawn(reading).context("cannot start a thread")?;
        let remote = Remote(Arc::new(Mutex::new(Pipe { to, from, ended: false })));
        let lines = tracing_subscriber::registry().with(Lines(remote.clone()));
        tracing::subscriber::set_global_default(lines)?;
        Ok(remote)
    }

    /// Says who this is.
    pub(super) fn greet(&self, hello: Hello) -> anyhow::Result<()> {
        self.0.lock().say(Said::Hello(hello)).map_err(anyhow::Error::msg)
    }

    /// Waits for a call.
    pub(super) fn next_call(&self) -> anyhow::Result<Call> {
        match self.0.lock().hear().map_err(anyhow::Error::msg)? {
            Told::Call(call) => Ok(call),
            Told::Answer(_) => Err(anyhow!("the harness answers what nobody asked")),
        }
    }

    /// Says what the call came to.
    pub(super) fn finish(&self, came: Option<Came>) -> anyhow::Result<()> {
        self.0.lock().say(Said::Outcome(Outcome { came })).map_err(anyhow::Error::msg)
    }

    /// Whether the harness ended the call.
    pub(super) fn take_ended(&self) -> bool {
        std::mem::take(&mut self.0.lock().ended)
    }

    /// What the harness's node says about itself.
    pub(super) fn node_status(&self) -> String {
        // Without an answer there is nobody left to whom the rest of the call could matter: its outcome goes the same way.
        let answer = self.ask(Said::NodeStatus(true)).unwrap_or_default();
        String::from_utf8_lossy(&answer.bytes.unwrap_or_default()).into_owned()
    }

    fn ask(&self, said: Said) -> Result<Answer, String> {
        let mut pipe = self.0.lock();
        pipe.say(said)?;
        match pipe.hear()? {
            Told::Answer(answer) if answer.ended => {
                pipe.ended = true;
                Err("the harness ended the call".into())
            }
            Told::Answer(answer) => Ok(answer),
            Told::Call(_) => Err("the harness calls in the middle of a call".into()),
        }
    }
}

impl Pipe {
    fn say(&mut self, said: Said) -> Result<(), String> {
        frames::write(&mut self.to, &FromGuest { said: Some(said) })
            .map_err(|error| format!("the harness cannot be told: {error}"))
    }

    fn hear(&mut self) -> Result<Told, String> {
        let frame = self.from.recv().map_err(|_| "the harness cannot be heard any more")?;
        frame
            .told
            .ok_or_else(|| "the harness says what this program does not know: take both from the same checkout".into())
    }
}

impl Store for Remote {
    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        Ok(self.ask(Said::Get(key.to_vec())).map_err(StoreFault)?.bytes)
    }

    fn scan(&mut self, range: Range<'_>, reverse: bool, limit: u32) -> Result<Page, StoreFault> {
        let range = WireRange { reverse, limit, ..wire_range(range) };
        let answer = self.ask(Said::Scan(range)).map_err(StoreFault)?;
        Ok(Page { rows: answer.bytes.unwrap_or_default(), more: answer.more })
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreFault> {
        let row = Row { key: key.to_vec(), value: value.to_vec() };
        self.ask(Said::Put(row)).map(drop).map_err(StoreFault)
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StoreFault> {
        self.ask(Said::Remove(key.to_vec())).map(drop).map_err(StoreFault)
    }

    fn remove_range(&mut self, range: Range<'_>, limit: u64) -> Result<u64, StoreFault> {
        // More keys than a u32 counts are in no test.
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let range = WireRange { limit, ..wire_range(range) };
        Ok(self.ask(Said::RemoveRange(range)).map_err(StoreFault)?.removed)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

fn wire_range(range: Range<'_>) -> WireRange {
    WireRange { start: range.start.to_vec(), end: range.end.map(<[u8]>::to_vec), ..WireRange::default() }
}

impl SnapshotSink for Remote {
    fn write(&mut self, chunk: &[u8]) -> Result<(), String> {
        self.ask(Said::SinkWrite(chunk.to_vec())).map(drop)
    }
}

impl SnapshotSource for Remote {
    fn read(&mut self, bytes_max: usize) -> Result<Vec<u8>, String> {
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        Ok(self.ask(Said::SourceRead(bytes_max))?.bytes.unwrap_or_default())
    }
}

/// Takes the lines of guests off this process's log, where a node would write them.
struct Lines(Remote);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
        if event.metadata().target() != "guest" {
            return;
        }
        let level = match *event.metadata().level() {
            Level::ERROR => frames::Level::Error,
            Level::WARN => frames::Level::Warn,
            Level::INFO => frames::Level::Info,
            Level::DEBUG | Level::TRACE => frames::Level::Debug,
        };
        let mut text = Text(String::new());
        event.record(&mut text);
        // A pipe that takes no line takes no outcome either, and there it is said.
        drop(self.0.0.lock().say(Said::Log(Line { level: level.into(), text: text.0 })));
    }
}

/// The message of an event.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
