//! Settings made in code, without a file.

use super::{BrokerUrls, ConfigError, ConsumerSettings, Settings};

/// Makes [`Settings`] in code. Each key that is not set has its default.
///
/// ```
/// use std::time::Duration;
/// use lapwing::Settings;
///
/// let settings = Settings::builder()
///     .broker("amqp://guest:guest@localhost:5672/%2f")
///     .consumer("orders", "shop.orders", |orders| {
///         orders.concurrency = 8;
///         orders.timeout = Duration::from_secs(5);
///     })
///     .with(|settings| settings.drain.grace = Duration::from_secs(20))
///     .build()?;
/// assert_eq!(settings.consumers["orders"].queue, "shop.orders");
/// # Ok::<(), lapwing::settings::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "call `build`"]
pub struct SettingsBuilder(Settings);

impl SettingsBuilder {
    /// Sets `broker.url`: one URL, or several with white space between them.
    pub fn broker(self, urls: &str) -> Self {
        self.with(|settings| settings.broker.url = BrokerUrls::parse(urls))
    }

    /// Adds a consumer of this queue, and changes its settings.
    pub fn consumer(
        self,
        name: &str,
        queue: &str,
        change: impl FnOnce(&mut ConsumerSettings),
    ) -> Self {
        let mut consumer = ConsumerSettings {
            queue: queue.to_owned(),
            ..ConsumerSettings::default()
        };
        change(&mut consumer);
        self.with(|settings| drop(settings.consumers.insert(name.to_owned(), consumer)))
    }

    /// Changes any other settings.
    pub fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.0);
        self
    }

    /// The settings, checked.
    ///
    /// # Errors
    /// Lists every value out of its range, every contradiction and every file that cannot be read.
    pub fn build(self) -> Result<Settings, ConfigError> {
        self.0.validate()?;
        Ok(self.0)
    }
}
