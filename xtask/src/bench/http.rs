//! The few HTTP calls of the benchmark: pages of our nodes, and the JSON face of etcd. It speaks
//! HTTP/1.0, so that the other side closes the connection behind the body and sends it in one
//! piece. It knows no TLS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Longest wait for a part of the answer.
const TIMEOUT: Duration = Duration::from_secs(5);

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
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    body(&answer).map(str::to_owned)
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

    #[test]
    fn a_request_is_answered_until_the_other_side_closes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n{}") {
                let mut part = [0; 64];
                let length = stream.read(&mut part).unwrap();
                request.extend_from_slice(&part[..length]);
            }
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello").unwrap();
            String::from_utf8(request).unwrap()
        });
        assert_eq!(post(&address, "/v3/x", "{}").unwrap(), "hello");
        assert!(server.join().unwrap().starts_with("POST /v3/x HTTP/1.0\r\n"));
    }
}
