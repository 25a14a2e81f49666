//! The few HTTP calls of the benchmarks: pages of our nodes, and the JSON face of etcd. A single
//! call speaks HTTP/1.0, so that the other side closes the connection behind the body and sends it
//! in one piece. Many calls of one node share a connection. It knows no TLS.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Longest wait for a part of the answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of a page that is read over a kept connection.
const PAGE_BYTES_MAX: usize = 16 << 20;

/// Returns the body of a page.
pub(super) fn get(address: &str, path: &str) -> Result<String> {
    exchange(address, &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n"))
        .with_context(|| format!("GET http://{address}{path}"))
}

/// Sends JSON, and returns the body of the answer.
pub(super) fn post(address: &str, path: &str, json: &str) -> Result<String> {
    let length = json.len();
    let headers = format!("Host: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n");
    exchange(address, &format!("POST {path} HTTP/1.0\r\n{headers}\r\n{json}"))
        .with_context(|| format!("POST http://{address}{path}"))
}

fn exchange(address: &str, request: &str) -> Result<String> {
    let mut stream = connect(address)?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    body(&answer).map(str::to_owned)
}

fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// A connection over which one page is read after the other.
#[derive(Debug)]
pub(super) struct Kept {
    address: String,
    stream: BufReader<TcpStream>,
}

impl Kept {
    pub(super) fn open(address: &str) -> Result<Kept> {
        let stream = connect(address).with_context(|| format!("http://{address}"))?;
        stream.set_nodelay(true)?;
        Ok(Kept { address: address.to_owned(), stream: BufReader::new(stream) })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Returns the body of a page.
    pub(super) fn get(&mut self, path: &str) -> Result<String> {
        let answer = self.exchange(path).with_context(|| format!("GET http://{}{path}", self.address))?;
        body(&answer).map(str::to_owned).with_context(|| format!("GET http://{}{path}", self.address))
    }

    fn exchange(&mut self, path: &str) -> Result<String> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            ensure!(self.stream.read_line(&mut answer)? > 0, "the other side has closed the connection");
        }
        let length = content_length(&answer).context("the answer does not say how long it is")?;
        ensure!(length <= PAGE_BYTES_MAX, "the answer has {length} bytes, and may have {PAGE_BYTES_MAX}");
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(answer + std::str::from_utf8(&bytes)?)
    }
}

/// Returns how long the body behind these headers is.
fn content_length(head: &str) -> Option<usize> {
    let headers = head.lines().filter_map(|line| line.split_once(':'));
    let mut lengths = headers.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths.next()?.1.trim().parse().ok()
}

/// Returns the body of an answer whose status is 200.
fn body(answer: &str) -> Result<&str> {
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("the answer was '{status}': {}", body.trim());
    }
    Ok(body)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_an_answer_with_status_200_has_a_body() {
        assert_eq!(body("HTTP/1.0 200 OK\r\nServer: x\r\n\r\n{}\n").unwrap(), "{}\n");
        let error = body("HTTP/1.1 404 Not Found\r\n\r\nno page\n").unwrap_err().to_string();
        assert!(error.contains("404 Not Found") && error.ends_with(": no page"), "{error}");
        assert!(body("SSH-2.0").is_err());
    }

    /// Serves one connection: each answer follows a request that ends with `end`. The thread
    /// returns all requests.
    fn serve(answers: &'static [&'static str], end: &'static [u8]) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = Vec::new();
            for answer in answers {
                let mut request = Vec::new();
                while !request.ends_with(end) {
                    let mut part = [0; 64];
                    let length = stream.read(&mut part).unwrap();
                    assert!(length > 0, "the request ends early");
                    request.extend_from_slice(&part[..length]);
                }
                stream.write_all(answer.as_bytes()).unwrap();
                heard.extend_from_slice(&request);
            }
            String::from_utf8(heard).unwrap()
        });
        (address, server)
    }

    #[test]
    fn a_request_is_answered_until_the_other_side_closes() {
        let (address, server) = serve(&["HTTP/1.0 200 OK\r\n\r\nhello"], b"\r\n\r\n{}");
        assert_eq!(post(&address, "/v3/x", "{}").unwrap(), "hello");
        assert!(server.join().unwrap().starts_with("POST /v3/x HTTP/1.0\r\n"));
    }

    #[test]
    fn pages_come_over_one_connection() {
        const ANSWERS: &[&str] = &[
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst",
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nno!\n",
            "HTTP/1.1 200 OK\r\n\r\n",
        ];
        let (address, server) = serve(ANSWERS, b"\r\n\r\n");
        let mut kept = Kept::open(&address).unwrap();
        assert_eq!(kept.get("/a").unwrap(), "first");
        let refused = format!("{:#}", kept.get("/b").unwrap_err());
        assert!(refused.contains(&format!("GET http://{address}/b")) && refused.ends_with(": no!"), "{refused}");
        assert!(format!("{:#}", kept.get("/c").unwrap_err()).contains("how long"));
        assert!(server.join().unwrap().starts_with("GET /a HTTP/1.1\r\nHost: "));
    }
}
