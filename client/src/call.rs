//! One call, from the first attempt to the answer: which node it goes to, when it is sent again,
//! and when it is given up. Sends a call again only if no node ran it.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tokio::time::{Instant, sleep};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::attempt::{Failed, Unanswered, attempt, own};
use crate::outcome::{self, Judged, Outcome, doubted, judge, leader_of};
use crate::{Client, Options};

/// Bytes that gRPC puts in front of each message.
const PREFIX_BYTES: usize = 5;

/// The longest timeout that gRPC can name is longer. This one keeps the arithmetic of instants
/// sound.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Sends the call to the node of a client that has only one, as it is, and once.
pub(crate) async fn once(client: &Client, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
    let deadline = deadline_of(request.headers(), client.options());
    let address = client.nodes().choose(&[]).expect("a client has at least one node");
    attempt(client.nodes(), &address, request, deadline, client.options()).await.map_err(Failed::status)
}

/// One call under way.
pub(crate) struct Call {
    client: Client,
    head: http::request::Parts,
    body: Bytes,
    deadline: Instant,
    /// Nodes that are not asked again in this round.
    avoid: Vec<String>,
    pause: Duration,
    /// Whether an attempt broke after it was sent. Then the call may have run, whatever a later
    /// attempt says.
    may_have_run: bool,
    /// Whether every node of this round refused to be spoken to, or this side refused the node.
    all_refused: bool,
    /// What the caller is told if nothing better comes until the deadline.
    last: Option<http::Response<Body>>,
    last_words: String,
}

impl Call {
    /// Takes the request in, so that it can be sent more than once.
    ///
    /// # Errors
    /// The request is too large, or its body failed. Nothing was sent.
    pub(crate) async fn new(client: Client, request: http::Request<Body>) -> Result<Call, Status> {
        let options = client.options();
        let (head, body) = request.into_parts();
        let deadline = deadline_of(&head.headers, options);
        let max = options.request_bytes_max;
        let body = Limited::new(body, max.saturating_add(PREFIX_BYTES)).collect().await.map_err(|error| {
            let status = if error.is::<LengthLimitError>() {
                Status::resource_exhausted(format!("the request was not sent: it is larger than {max} bytes"))
            } else {
                Status::from_error(error)
            };
            outcome::with_outcome(status, Outcome::NotApplied)
        })?;
        let pause = options.pause_min;
        let (body, avoid, last_words) = (body.to_bytes(), Vec::new(), String::new());
        Ok(Call {
            client,
            head,
            body,
            deadline,
            avoid,
            pause,
            may_have_run: false,
            all_refused: true,
            last: None,
            last_words,
        })
    }

    /// Makes attempts until one is final or the deadline has come.
    pub(crate) async fn run(mut self) -> Result<http::Response<Body>, Status> {
        loop {
            if Instant::now() >= self.deadline {
                return self.give_up();
            }
            let Some(address) = self.client.nodes().choose(&self.avoid) else {
                if self.all_refused {
                    return self.refused();
                }
                self.next_round().await;
                continue;
            };
            if let Some(response) = self.attempt(&address).await {
                return response;
            }
        }
    }

    /// Sends the call to one node. Returns what the caller gets, or `None` when another attempt is
    /// due.
    async fn attempt(&mut self, address: &str) -> Option<Result<http::Response<Body>, Status>> {
        let request = self.request();
        let client = &self.client;
        let failed = match attempt(client.nodes(), address, request, self.deadline, client.options()).await {
            Ok(response) => return self.answered(address, response).await.map(Ok),
            Err(failed) => failed,
        };
        match failed.why {
            Unanswered::Unreachable => self.all_refused = false,
            Unanswered::Refused => {}
            Unanswered::Broken if self.client.repeats() => {
                self.may_have_run = true;
                self.all_refused = false;
            }
            Unanswered::Broken | Unanswered::Late => return Some(Err(failed.status())),
        }
        self.last_words = failed.words;
        self.avoid.push(address.to_owned());
        None
    }

    async fn answered(&mut self, address: &str, response: http::Response<Body>) -> Option<http::Response<Body>> {
        self.all_refused = false;
        let leader = leader_of(response.headers());
        let moved = leader.as_deref().is_some_and(|leader| self.client.nodes().prefer(leader));
        match judge(response.headers()) {
            Judged::Final => return Some(self.certain(response)),
            Judged::Again if moved => {}
            Judged::Again => {
                if leader.is_none() {
                    // It knows no leader. Another node may.
                    self.avoid.push(address.to_owned());
                }
                self.rest().await;
            }
            Judged::Elsewhere => self.avoid.push(address.to_owned()),
        }
        self.last = Some(response);
        None
    }

    /// Takes back that the call did not run, if an earlier attempt may have run it.
    fn certain(&self, response: http::Response<Body>) -> http::Response<Body> {
        if self.may_have_run { doubted(response) } else { response }
    }

    /// No node is spoken to, and a pause would not change that.
    fn refused(self) -> Result<http::Response<Body>, Status> {
        let outcome = if self.may_have_run { Outcome::Unknown } else { Outcome::NotApplied };
        let words = format!("no node took the call; {}", self.last_words);
        Err(own(Code::Unauthenticated, words, outcome, Unanswered::Refused))
    }

    /// All nodes were asked. They are asked again after a pause.
    async fn next_round(&mut self) {
        self.rest().await;
        self.avoid.clear();
        self.all_refused = true;
    }

    /// Waits, longer each time, and never past the deadline.
    async fn rest(&mut self) {
        let until = (Instant::now() + jittered(self.pause)).min(self.deadline);
        sleep(until.saturating_duration_since(Instant::now())).await;
        self.pause = (self.pause * 2).min(self.client.options().pause_max);
    }

    /// The deadline has come between two attempts.
    fn give_up(mut self) -> Result<http::Response<Body>, Status> {
        if let Some(response) = self.last.take() {
            return Ok(self.certain(response));
        }
        let (outcome, why) = match self.may_have_run {
            true => (Outcome::Unknown, Unanswered::Broken),
            false => (Outcome::NotApplied, Unanswered::Unreachable),
        };
        let words = format!("no node answered before the deadline; {}", self.last_words);
        Err(own(Code::DeadlineExceeded, words, outcome, why))
    }

    /// The request, with the time that is left if the caller named one. A call without a deadline
    /// names none to the node either, so that a watch goes on.
    fn request(&self) -> http::Request<Body> {
        let mut request = http::Request::new(Body::new(Full::new(self.body.clone())));
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = self.head.uri.clone();
        *request.version_mut() = self.head.version;
        *request.headers_mut() = self.head.headers.clone();
        *request.extensions_mut() = self.head.extensions.clone();
        if self.head.headers.contains_key("grpc-timeout") {
            set_timeout(request.headers_mut(), self.deadline.saturating_duration_since(Instant::now()));
        }
        request
    }
}

/// When a call ends that begins now.
fn deadline_of(headers: &HeaderMap, options: &Options) -> Instant {
    let asked = headers.get("grpc-timeout").and_then(|text| timeout_of(text.to_str().ok()?));
    Instant::now() + asked.unwrap_or(options.call_timeout).min(TIMEOUT_MAX)
}

fn set_timeout(headers: &mut HeaderMap, left: Duration) {
    // gRPC allows eight digits.
    let millis = left.as_millis().max(1);
    let text = if millis < 100_000_000 { format!("{millis}m") } else { format!("{}S", left.as_secs().min(99_999_999)) };
    if let Ok(value) = text.parse() {
        headers.insert("grpc-timeout", value);
    }
}

/// Reads the value of `grpc-timeout`: up to eight digits and a unit.
fn timeout_of(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Half of `pause` to all of it, so that clients that were refused together do not come back
/// together.
fn jittered(pause: Duration) -> Duration {
    let share = getrandom::u32().map_or(1.0, |number| f64::from(number) / f64::from(u32::MAX));
    pause.mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_and_written_as_grpc_does() {
        assert_eq!(timeout_of("2S"), Some(Duration::from_secs(2)));
        assert_eq!(timeout_of("99999999m"), Some(Duration::from_millis(99_999_999)));
        for wrong in ["", "S", "2", "123456789m", "2x", "-1S", "\u{fc}"] {
            assert_eq!(timeout_of(wrong), None, "{wrong}");
        }
        let mut headers = HeaderMap::new();
        for (left, text) in [(0, "1m"), (1500, "1500m"), (100_000_000, "100000S")] {
            set_timeout(&mut headers, Duration::from_millis(left));
            assert_eq!(headers["grpc-timeout"], text);
        }
    }

    #[test]
    fn pauses_differ_and_stay_within_their_bounds() {
        let pause = Duration::from_millis(100);
        for _ in 0..100 {
            let jittered = jittered(pause);
            assert!(jittered >= pause / 2 && jittered <= pause, "{jittered:?}");
        }
    }
}
