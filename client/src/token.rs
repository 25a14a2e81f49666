//! The bearer token that a client shows with every call. It is never shown in a message or in
//! `Debug`. Where it comes from is up to the program: a text, a file that another program renews,
//! or a function.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use parking_lot::Mutex;

/// How long a file is not read again.
const FILE_AGE_MAX: Duration = Duration::from_secs(1);
/// Largest file that is read. No token comes near it.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A source of bearer tokens. Clones share it.
#[derive(Clone)]
pub struct Token {
    source: Arc<Source>,
}

enum Source {
    Fixed(HeaderValue),
    File { path: PathBuf, last: Mutex<Option<(Instant, HeaderValue)>> },
    Provider(Box<Provider>),
}

type Provider = dyn Fn() -> Result<String, Box<dyn std::error::Error + Send + Sync>> + Send + Sync;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The text has a character that no token has. It may be a whole file with more lines.
    #[error("{0} is no token: a token is one line of letters, digits and -._~+/=")]
    Malformed(String),
    /// The file of the token cannot be read.
    #[error("the token in {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The program's own function has no token.
    #[error("there is no token")]
    Provider(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Token {
    /// Shows the same token for ever.
    ///
    /// # Errors
    /// The text is no token.
    pub fn fixed(text: &str) -> Result<Token, TokenError> {
        let source = Source::Fixed(header(text, || "the text".into())?);
        Ok(Token { source: Arc::new(source) })
    }

    /// Shows the token that the file holds. It is read again at most once a second, so that a token
    /// can be renewed while the program runs.
    pub fn file(path: impl Into<PathBuf>) -> Token {
        Token { source: Arc::new(Source::File { path: path.into(), last: Mutex::new(None) }) }
    }

    /// Asks the function for the token of every attempt of a call. It must not block.
    pub fn provider(
        provider: impl Fn() -> Result<String, Box<dyn std::error::Error + Send + Sync>> + Send + Sync + 'static,
    ) -> Token {
        Token { source: Arc::new(Source::Provider(Box::new(provider))) }
    }

    /// Looks whether there is a token at the moment.
    ///
    /// # Errors
    /// There is none.
    pub fn check(&self) -> Result<(), TokenError> {
        self.header().map(drop)
    }

    /// Returns the value of the header `authorization`.
    pub(crate) fn header(&self) -> Result<HeaderValue, TokenError> {
        match &*self.source {
            Source::Fixed(value) => Ok(value.clone()),
            Source::File { path, last } => of_file(path, &mut last.lock()),
            Source::Provider(provide) => {
                header(&provide().map_err(TokenError::Provider)?, || "what the function gave".into())
            }
        }
    }
}

fn of_file(path: &Path, last: &mut Option<(Instant, HeaderValue)>) -> Result<HeaderValue, TokenError> {
    if let Some((_, value)) = last.as_ref().filter(|(read, _)| read.elapsed() < FILE_AGE_MAX) {
        return Ok(value.clone());
    }
    let value = header(&read(path)?, || path.display().to_string())?;
    *last = Some((Instant::now(), value.clone()));
    Ok(value)
}

fn read(path: &Path) -> Result<String, TokenError> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|source| TokenError::Unreadable { path: path.to_owned(), source })?;
    Ok(text)
}

/// Makes the header of a token. Space around it is left out.
fn header(text: &str, named: impl FnOnce() -> String) -> Result<HeaderValue, TokenError> {
    let text = text.trim();
    let is_token = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    let value = HeaderValue::try_from(format!("Bearer {text}")).ok();
    let value = value.filter(|_| !text.is_empty() && text.chars().all(is_token));
    let mut value = value.ok_or_else(|| TokenError::Malformed(named()))?;
    value.set_sensitive(true);
    Ok(value)
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.source {
            Source::Fixed(_) => f.write_str("Token(fixed)"),
            Source::File { path, .. } => write!(f, "Token({})", path.display()),
            Source::Provider(_) => f.write_str("Token(provider)"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_trimmed_sent_and_never_shown() {
        let token = Token::fixed(" abc.DEF-1_2\n").unwrap();
        let header = token.header().unwrap();
        assert!(header == "Bearer abc.DEF-1_2" && header.is_sensitive());
        assert!(!format!("{token:?} {header:?}").contains("abc"));
    }

    #[test]
    fn what_is_no_token_is_named_but_not_repeated() {
        for text in ["", "two words", "Bearer abc", "a\nb", "ümlaut"] {
            let error = Token::fixed(text).unwrap_err().to_string();
            assert!(error.starts_with("the text is no token"), "{error}");
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
        let error = Token::file("/nowhere/token").check().unwrap_err();
        assert_eq!(error.to_string(), "the token in /nowhere/token cannot be read");
        let error = Token::provider(|| Err("the vault is closed".into())).check().unwrap_err();
        assert_eq!(crate::connecting::chain(&error), "there is no token: the vault is closed");
    }
}
