//! Single requests to the broker that it may refuse.

use std::time::Duration;

use lapin::{Channel, Connection, ErrorKind};
use tokio::time::timeout;

/// Bounds each request to the broker.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// An error answer of the broker.
pub(super) struct BrokerError {
    /// The AMQP reply code.
    pub(super) code: Option<u16>,
    pub(super) text: String,
}

/// Runs a request on a channel of its own, because the broker closes the channel of a refused request.
pub(super) async fn with_channel<T>(
    connection: &Connection,
    request: impl AsyncFnOnce(&Channel) -> lapin::Result<T>,
) -> Result<T, BrokerError> {
    let answer = async {
        let channel = connection.create_channel().await?;
        request(&channel).await
    };
    match timeout(REQUEST_TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(match error.kind() {
            ErrorKind::ProtocolError(answer) => {
                BrokerError { code: Some(answer.get_id()), text: answer.get_message().to_string() }
            }
            _ => BrokerError { code: None, text: error.to_string() },
        }),
        Err(_) => Err(BrokerError { code: None, text: format!("no answer within {REQUEST_TIMEOUT:?}") }),
    }
}
