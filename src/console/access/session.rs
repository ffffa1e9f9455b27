//! Sessions: signed cookies.
//!
//! A cookie is `EXPIRES.ID.SIGNATURE`, signed with a key that is derived from the token of the login. So it is valid after a
//! restart, and no longer when the token is removed. A session ends after [`LIFETIME`], or when the person logs out: the
//! process remembers the ids of such sessions.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;

use super::keys::SigningKey;

/// Time after which a person must log in again.
const LIFETIME: Duration = Duration::from_hours(12);
/// The name of the cookie over HTTPS. The prefix makes browsers refuse one that another host or a connection in clear text
/// has set.
const SECURE_NAME: &str = "__Host-polyhook";
/// The name of the cookie in clear text, where browsers refuse that prefix.
const NAME: &str = "polyhook";
const PURPOSE: &str = "session";
/// Sessions that have ended early and are remembered. When there are more, the ones that expire first are forgotten.
const MAX_ENDED: usize = 10_000;

/// A valid session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// The position of the token of the login.
    pub(super) token: usize,
    /// Seconds since 1970.
    expires: i64,
    pub(super) id: String,
}

/// The sessions that people have ended.
#[derive(Debug, Default)]
pub(super) struct EndedSessions(Mutex<BTreeSet<(i64, String)>>);

impl EndedSessions {
    /// Ends a session before its time.
    pub(super) fn end(&self, session: &Session, now: Timestamp) {
        let mut ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |(expires, _): &(i64, String)| *expires <= now.as_second();
        while ended.len() >= MAX_ENDED || ended.first().is_some_and(is_over) {
            ended.pop_first();
        }
        ended.insert((session.expires, session.id.clone()));
    }

    fn contains(&self, expires: i64, id: &str) -> bool {
        let ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ended.contains(&(expires, id.to_owned()))
    }
}

/// Returns the value of the `Set-Cookie` header that starts a session.
pub(super) fn start(key: &SigningKey, now: Timestamp, is_https: bool) -> HeaderValue {
    let expires = (now.as_second() + seconds(LIFETIME)).to_string();
    let id = uuid::Uuid::new_v4().simple().to_string();
    let signature = key.sign(PURPOSE, &[&expires, &id]);
    let name = if is_https { SECURE_NAME } else { NAME };
    set_cookie(name, &format!("{expires}.{id}.{signature}"), LIFETIME, is_https)
}

/// Returns the values of the `Set-Cookie` headers that remove the cookies.
pub(super) fn removal() -> [HeaderValue; 2] {
    [(SECURE_NAME, true), (NAME, false)].map(|(name, secure)| set_cookie(name, "", Duration::ZERO, secure))
}

fn set_cookie(name: &str, value: &str, max_age: Duration, is_secure: bool) -> HeaderValue {
    let secure = if is_secure { "; Secure" } else { "" };
    let max_age = max_age.as_secs();
    let cookie = format!("{name}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::try_from(cookie).expect("the value is hexadecimal")
}

/// Returns the session of a request, if one of its cookies is valid. `keys` are those of the active tokens.
pub(super) fn of_request(
    headers: &HeaderMap,
    keys: &[SigningKey],
    ended: &EndedSessions,
    now: Timestamp,
) -> Option<Session> {
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut values = pairs.filter(|(name, _)| [SECURE_NAME, NAME].contains(name)).map(|(_, value)| value);
    values.find_map(|value| parse(value, keys, ended, now))
}

fn parse(value: &str, keys: &[SigningKey], ended: &EndedSessions, now: Timestamp) -> Option<Session> {
    let (expires_text, rest) = value.split_once('.')?;
    let (id, signature) = rest.split_once('.')?;
    let expires: i64 = expires_text.parse().ok()?;
    // A longer time is left if the clock was ahead at the login.
    if !(1..=seconds(LIFETIME)).contains(&expires.checked_sub(now.as_second())?) {
        return None;
    }
    let token = keys.iter().position(|key| key.verify(PURPOSE, &[expires_text, id], signature))?;
    (!ended.contains(expires, id)).then(|| Session { token, expires, id: id.to_owned() })
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn keys() -> [SigningKey; 2] {
        ["token-number-one", "token-number-two"].map(|token| SigningKey::of_token(&Secret::new(token)))
    }

    /// Returns the cookie that a browser sends back.
    fn started(key: &SigningKey, is_https: bool) -> String {
        let cookie = start(key, NOW, is_https);
        cookie.to_str().unwrap().split(';').next().unwrap().to_owned()
    }

    fn read(cookie: &str, keys: &[SigningKey], now: Timestamp) -> Option<usize> {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_str(cookie).unwrap());
        of_request(&headers, keys, &EndedSessions::default(), now).map(|session| session.token)
    }

    #[test]
    fn a_session_lasts_half_a_day_while_its_token_is_active() {
        let keys = keys();
        for is_https in [true, false] {
            let cookie = started(&keys[1], is_https);
            assert_eq!(read(&cookie, &keys, NOW), Some(1));
            assert_eq!(read(&format!("other=1; {cookie}; last=2"), &keys, NOW), Some(1));
            assert_eq!(read(&cookie, &keys, NOW + Duration::from_secs(43_199)), Some(1));
            assert_eq!(read(&cookie, &keys, NOW + LIFETIME), None, "it has expired");
            assert_eq!(read(&cookie, &keys, NOW - Duration::from_secs(1)), None, "the clock was ahead");
            assert_eq!(read(&cookie, &keys[..1], NOW), None, "its token is not active");
            assert_eq!(read(&cookie, &[], NOW), None);
        }
    }

    #[test]
    fn a_changed_cookie_is_not_a_session() {
        let keys = keys();
        let cookie = started(&keys[0], false);
        let value = cookie.strip_prefix("polyhook=").unwrap();
        let later = value.replacen("18", "19", 1);
        let (rest, signature) = value.rsplit_once('.').unwrap();
        let unsigned = format!("{rest}.{}", "0".repeat(signature.len()));
        let cut = &value[..value.len() - 1];
        let doubled = format!("{value}{signature}");
        for forged in [later.as_str(), &unsigned, cut, &doubled, rest, "", ".", "..", "a.b.c", "-1.a.b"] {
            assert_eq!(read(&format!("polyhook={forged}"), &keys, NOW), None, "{forged}");
        }
        assert_eq!(read(&format!("polyhook={unsigned}; {cookie}"), &keys, NOW), Some(0), "one is enough");
        assert_eq!(read(&format!("Polyhook={value}"), &keys, NOW), None, "names have a case");
    }

    #[test]
    fn cookies_cannot_be_read_by_scripts_or_sent_from_other_sites() {
        let key = &keys()[0];
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let (secure, plain) = (text(&start(key, NOW, true)), text(&start(key, NOW, false)));
        for (cookie, name) in [(&secure, "__Host-polyhook="), (&plain, "polyhook=")] {
            assert!(cookie.starts_with(name), "{cookie}");
            for attribute in ["; Path=/", "; HttpOnly", "; SameSite=Strict", "; Max-Age=43200"] {
                assert!(cookie.contains(attribute), "{cookie}");
            }
        }
        assert!(secure.ends_with("; Secure") && !plain.contains("Secure"));
        for cookie in removal() {
            assert!(text(&cookie).contains("=; Path=/; Max-Age=0;"), "{cookie:?}");
        }
    }

    #[test]
    fn an_ended_session_stays_ended_and_the_memory_of_it_is_bounded() {
        let keys = keys();
        let ended = EndedSessions::default();
        let cookie = started(&keys[0], false);
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_str(&cookie).unwrap());
        let session = of_request(&headers, &keys, &ended, NOW).unwrap();
        ended.end(&session, NOW);
        assert_eq!(of_request(&headers, &keys, &ended, NOW), None);
        for id in 0..2 * MAX_ENDED {
            ended.end(&Session { id: id.to_string(), ..session.clone() }, NOW);
        }
        assert_eq!(ended.0.lock().unwrap().len(), MAX_ENDED);
        ended.end(&session, NOW + 2 * LIFETIME);
        assert_eq!(ended.0.lock().unwrap().len(), 1, "what has expired needs no memory");
    }
}
