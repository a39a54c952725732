//! How many sessions may be opened or taken up per time: a bucket of tokens, and before it a chance of
//! being refused that grows while the bucket is empty and shrinks while it is full.
//!
//! Source: `BlueThrottle`, 3.9.

/// The keys `connection_throttle_*`. Times in ms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ThrottleSettings {
    /// Tokens that the bucket holds; 0 switches the throttle off.
    pub tokens: i64,
    /// In this time …
    pub fill_ms: i64,
    /// … so many tokens come.
    pub fill_count: i64,
    /// The chance changes at most once in this time; `None` for no chance.
    pub freeze_ms: Option<i64>,
    /// What an empty bucket adds to the chance.
    pub drop_increase: f64,
    /// What a full bucket takes from it.
    pub drop_decrease: f64,
    /// Up to which part of the tokens may be missing for a bucket to count as full.
    pub decrease_ratio: f64,
    /// Tokens that a new session takes.
    pub new_weight: i64,
    /// Tokens that a session taken up again takes.
    pub renew_weight: i64,
}

impl ThrottleSettings {
    /// Switched off.
    pub const OFF: ThrottleSettings = ThrottleSettings {
        tokens: 0,
        fill_ms: 1,
        fill_count: 1,
        freeze_ms: None,
        drop_increase: 0.02,
        drop_decrease: 0.002,
        decrease_ratio: 0.0,
        new_weight: 1,
        renew_weight: 1,
    };
}

#[derive(Debug)]
pub(crate) struct Throttle {
    settings: ThrottleSettings,
    tokens: i64,
    filled_ms: i64,
    frozen_ms: i64,
    drop: f64,
    random: u64,
}

impl Throttle {
    pub(crate) fn new(settings: ThrottleSettings, seed: u64, now_ms: i64) -> Throttle {
        Throttle {
            settings,
            tokens: settings.tokens,
            filled_ms: now_ms,
            frozen_ms: now_ms,
            drop: 0.0,
            random: seed,
        }
    }

    /// Whether a session may be opened, or taken up again, now.
    pub(crate) fn admits(&mut self, is_new: bool, now_ms: i64) -> bool {
        let ThrottleSettings { tokens: most, fill_ms, fill_count, .. } = self.settings;
        if most == 0 {
            return true;
        }
        let since_ms = now_ms - self.filled_ms;
        if since_ms > fill_ms {
            let came = since_ms.saturating_mul(fill_count) / fill_ms.max(1);
            self.tokens = self.tokens.saturating_add(came).min(most);
            self.filled_ms = now_ms;
        }
        if let Some(freeze_ms) = self.settings.freeze_ms
            && !self.is_lucky(freeze_ms, now_ms)
        {
            return false;
        }
        let need = if is_new { self.settings.new_weight } else { self.settings.renew_weight };
        if self.tokens < need {
            return false;
        }
        self.tokens -= need;
        true
    }

    fn is_lucky(&mut self, freeze_ms: i64, now_ms: i64) -> bool {
        let missing = self.settings.tokens - self.tokens;
        let counts_as_full = (self.settings.tokens as f64 * self.settings.decrease_ratio).round() as i64;
        if now_ms - self.frozen_ms > freeze_ms {
            if missing == self.settings.tokens {
                self.drop = (self.drop + self.settings.drop_increase).min(1.0);
            } else if missing <= counts_as_full {
                self.drop = (self.drop - self.settings.drop_decrease).max(0.0);
            }
            self.frozen_ms = now_ms;
        }
        self.draw() >= self.drop
    }

    /// A number from 0 to 1, from the node's seed (splitmix64).
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(throttle: &mut Throttle, tries: i64, now_ms: i64) -> usize {
        (0..tries).filter(|_| throttle.admits(true, now_ms)).count()
    }

    #[test]
    fn off_admits_everybody() {
        assert_eq!(count(&mut Throttle::new(ThrottleSettings::OFF, 1, 0), 1000, 0), 1000);
    }

    #[test]
    fn a_bucket_empties_and_fills() {
        let settings = ThrottleSettings { tokens: 10, fill_ms: 100, fill_count: 2, ..ThrottleSettings::OFF };
        let mut throttle = Throttle::new(settings, 1, 0);
        assert_eq!(count(&mut throttle, 50, 0), 10);
        assert_eq!(count(&mut throttle, 50, 100), 0);
        assert_eq!(count(&mut throttle, 50, 201), 4);
        assert_eq!(count(&mut throttle, 50, 1_000_000), 10, "never more than it holds");
    }

    #[test]
    fn weights_count() {
        let settings =
            ThrottleSettings { tokens: 12, new_weight: 3, renew_weight: 2, ..ThrottleSettings::OFF };
        let mut throttle = Throttle::new(settings, 1, 0);
        assert!(throttle.admits(false, 0) && throttle.admits(false, 0));
        assert_eq!(count(&mut throttle, 10, 0), 2);
    }

    #[test]
    fn the_chance_grows_while_the_bucket_is_empty_and_shrinks_after() {
        let settings = ThrottleSettings {
            tokens: 1,
            fill_ms: 1_000_000,
            freeze_ms: Some(0),
            drop_increase: 0.5,
            drop_decrease: 1.0,
            ..ThrottleSettings::OFF
        };
        let mut throttle = Throttle::new(settings, 7, 0);
        assert!(throttle.admits(true, 0));
        for now_ms in 1..10 {
            assert!(!throttle.admits(true, now_ms));
        }
        assert!(throttle.drop > 0.9);
        throttle.tokens = 1;
        throttle.admits(true, 20);
        assert!(throttle.drop < 0.1);
    }
}
