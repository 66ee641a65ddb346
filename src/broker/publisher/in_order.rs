//! Publishing one message behind the other, for a tool that moves messages and keeps their order.

use deadpool::managed::Object;
use lapin::{BasicProperties, Confirmation};
use tokio::sync::watch;

use super::{
    PRECONDITION, PooledChannel, Publication, PublishError, Publisher, properties_of, result_of,
};

impl Publisher {
    /// Publishes messages on one channel, in this order, and waits for all confirms.
    ///
    /// Returns how many of them, from the first one on, the broker has for sure, and why it is not all.
    /// The broker may have some of the others. If a message was returned, or an answer is missing, none is
    /// sure: lapin can attach a return to the confirm of another message of the channel.
    pub(crate) async fn publish_in_order(
        &self,
        messages: &[Publication<'_>],
    ) -> (usize, Result<(), PublishError>) {
        match self.in_order(messages).await {
            Ok((sure, outcome)) => (sure, outcome),
            Err(error) => (0, Err(error)),
        }
    }

    /// An error: nothing was published.
    async fn in_order(
        &self,
        messages: &[Publication<'_>],
    ) -> Result<(usize, Result<(), PublishError>), PublishError> {
        let channel = self.channel().await?;
        let connection = &channel.connection;
        let (blocked, named) = (connection.blocked(), connection.trust().user());
        let properties = messages.iter().map(|it| properties_of(it, connection));
        let properties = properties.collect::<Result<Vec<_>, _>>()?;
        let busy = channel.busy();
        let (sure, outcome) = self.answers(&channel, messages, properties, &blocked).await;
        let Err(error) = outcome else {
            busy.done();
            return Ok((sure, Ok(())));
        };
        let connection = std::sync::Arc::clone(connection);
        // A late confirm must not be taken for the confirm of a later publish.
        drop(Object::take(channel));
        // The broker knows the connection under another name than the copies have.
        if let PublishError::Refused { code, text } = &error
            && *code == PRECONDITION
            && connection.trust().learn(text, named.as_deref())
        {
            return Box::pin(self.in_order(messages)).await;
        }
        Ok((sure, Err(error)))
    }
    /// Publishes, and counts the answers.
    async fn answers(
        &self,
        channel: &PooledChannel,
        messages: &[Publication<'_>],
        properties: Vec<BasicProperties>,
        blocked: &watch::Receiver<bool>,
    ) -> (usize, Result<(), PublishError>) {
        let mut confirms = Vec::with_capacity(messages.len());
        let mut unwritten = None;
        for (message, properties) in messages.iter().zip(properties) {
            match self.write(channel, message, properties, blocked).await {
                Ok(confirm) => confirms.push(confirm),
                Err(error) => {
                    unwritten = Some(error);
                    break;
                }
            }
        }
        let mut answers = Vec::with_capacity(confirms.len());
        for confirm in confirms {
            match self.confirm(confirm, blocked).await {
                Ok(answer) => answers.push(answer),
                // The refusal of a message closes the channel, so that a later one cannot be written. Then only
                // the answers tell why.
                Err(error @ PublishError::Refused { .. }) => return (0, Err(error)),
                Err(error) => return (0, Err(unwritten.unwrap_or(error))),
            }
        }
        // Lapin may write this message after all. Then its answer is missing, and it can have the return of another.
        if let Some(error) = unwritten {
            return (0, Err(error));
        }
        let sure = sure(&answers);
        (sure, answers.into_iter().try_for_each(result_of))
    }
}

/// How many messages, from the first one on, the broker has for sure.
fn sure(answers: &[Confirmation]) -> usize {
    let is_return =
        |it: &Confirmation| matches!(it, Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)));
    if answers.iter().any(is_return) {
        return 0;
    }
    let acks = answers.iter();
    acks.take_while(|it| matches!(it, Confirmation::Ack(None)))
        .count()
}
