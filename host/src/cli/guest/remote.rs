//! The other end of `lockstep guest serve`'s pipe: the harness acts as the store, the streams, the
//! node and the log of a guest. This file forwards requests and does not interpret the answers.
//! When the harness is gone, this process exits, too.

use std::any::Any;
use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context, anyhow};
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context as LayerContext, Layer, SubscriberExt};

use super::frames::{
    self, Answer, Call, Came, FromGuest, Hello, Line, Outcome, Range as WireRange, Row, Said, ToGuest, Told,
};
use crate::guest::{Page, Range, Rows, SnapshotSink, SnapshotSource, StoreFault};

/// The connection to the harness. Clones share it.
#[derive(Clone)]
pub(super) struct Remote(Arc<Mutex<Pipe>>);

struct Pipe {
    to: File,
    from: Receiver<ToGuest>,
    /// Set when a rule of the harness ended the call that is running.
    ended: bool,
}

/// Ends this process. The argument says how the pipe ended.
type Exit = fn(anyhow::Result<()>) -> !;

impl Remote {
    /// Opens the connection: reads stdin, and writes to `to`. Log lines of guests are written
    /// there, too. Calls `exit` when stdin ends, even in the middle of a call.
    pub(super) fn open(to: File, exit: Exit) -> anyhow::Result<Remote> {
        // The harness sends one message at a time.
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

    /// Sends the first message, which identifies this program.
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

    /// Sends the outcome of the call.
    pub(super) fn finish(&self, came: Option<Came>) -> anyhow::Result<()> {
        self.0.lock().say(Said::Outcome(Outcome { came })).map_err(anyhow::Error::msg)
    }

    /// Tells whether the harness ended the call, and resets that.
    pub(super) fn take_ended(&self) -> bool {
        std::mem::take(&mut self.0.lock().ended)
    }

    /// Returns what the harness's node says about itself.
    pub(super) fn node_status(&self) -> String {
        // If there is no answer, the harness is gone, and the rest of the call does not matter: its
        // outcome goes the same way.
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

impl Rows for Remote {
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
        // No test has more keys than a u32 counts.
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

/// Sends the log lines of guests to the harness. A node would write them to its log.
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
        // An error is ignored here: if the pipe takes no line, it takes no outcome either, and that
        // error is reported.
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
