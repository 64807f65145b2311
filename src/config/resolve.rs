//! Layers, a profile and flags to [`Settings`].

use super::error::ConfigError;
use super::expand::expand;
use super::file::{self, Values};
use super::origin::Origin;
use super::profiles::{self, ProfileName};
use super::schema::KEYS;
use super::settings::{Choice, Entry, Settings};
use super::value::Value;
use super::{Config, Flag, limits};
use std::path::Path;
use std::time::Duration;

/// Heartbeats that must fit into a worker's death timeout: one lost packet is no death.
const HEARTBEATS_BEFORE_DEATH: u32 = 3;

impl Config {
    /// What is in force with that `--queue` and those flags. Without a queue, `profile.queue` of the layers is
    /// taken as if it had been given; [`Settings::choice`] says what came of it.
    pub fn settings(&self, queue: Option<&str>, flags: &[Flag]) -> Result<Settings, ConfigError> {
        let (choice, profile) = self.choose(queue, flags)?;
        let mut values = self.lay(&choice, profile)?;
        if let (Some(queue), Choice::Literal { .. }) = (queue, &choice) {
            values.insert("profile.queue", (Value::Text(queue.to_owned()), Origin::flag("--queue")));
        }
        for flag in flags {
            lay_flag(&mut values, flag)?;
        }
        limits::apply(&mut values)?;
        self.check(&mut values)?;
        settle(values, choice)
    }

    /// Settings of a cluster that is to be brought up: a queue must have been chosen.
    pub fn settings_for_queue(&self, queue: Option<&str>, flags: &[Flag]) -> Result<Settings, ConfigError> {
        let settings = self.settings(queue, flags)?;
        if settings.profile.system.is_empty() {
            return Err(ConfigError::NoQueue { profiles: self.profile_list() });
        }
        Ok(settings)
    }

    /// Where the key's value comes from when neither queue nor flag is given.
    pub fn origin(&self, key: &str) -> Option<Origin> {
        self.settings(None, &[]).ok()?.origin(key).cloned()
    }

    /// Profiles that `--queue` can pick, sorted by name.
    pub fn profiles(&self) -> Vec<ProfileName> {
        profiles::names(&self.profiles)
    }

    fn profile_list(&self) -> String {
        self.profiles().into_iter().map(|p| p.name).collect::<Vec<_>>().join(", ")
    }

    /// Which profile, with its layers; a literal queue has none.
    fn choose(&self, queue: Option<&str>, flags: &[Flag]) -> Result<(Choice, Vec<Values>), ConfigError> {
        let queue_word = match queue {
            Some(queue) => queue.to_owned(),
            None => self.text_of("profile.queue", &[]),
        };
        if !queue_word.is_empty() {
            let layers = profiles::read(&self.profiles, &queue_word)?;
            if !layers.is_empty() {
                return Ok((Choice::Profile(queue_word), layers));
            }
        }
        let system = self.text_of("profile.system", flags);
        match (system.is_empty(), queue_word.is_empty()) {
            (false, _) => Ok((Choice::Literal { queue: queue_word, system }, Vec::new())),
            (true, true) => Ok((Choice::Nothing, Vec::new())),
            (true, false) => Err(self.no_such_queue(queue_word, queue.is_some())),
        }
    }

    fn no_such_queue(&self, queue: String, by_flag: bool) -> ConfigError {
        let profiles = self.profile_list();
        let place = self.shared.iter().chain(&self.near).rev().find_map(|layer| layer.get("profile.queue"));
        match place {
            Some((_, place)) if !by_flag => ConfigError::BadValue {
                place: place.clone(),
                key: "profile.queue".to_owned(),
                why: format!(
                    "no profile is called `{queue}`, and `profile.system` names no batch system that could have \
                     such a queue; profiles: {profiles}"
                ),
            },
            _ => ConfigError::NoSuchQueue { queue, profiles },
        }
    }

    /// A text before any profile is laid over.
    fn text_of(&self, key: &str, flags: &[Flag]) -> String {
        let layers = self.shared.iter().chain(&self.near);
        let of_layers = layers.rev().find_map(|layer| match layer.get(key) {
            Some((Value::Text(text), _)) => Some(text.clone()),
            _ => None,
        });
        let of_flags = flags.iter().rev().find(|f| full_key(&f.key) == key).map(|f| f.value.clone());
        of_flags.or(of_layers).unwrap_or_default()
    }

    /// All layers but the flags. A chosen profile alone says which queue of which batch system it means: what
    /// the other layers say of that chose it, or is for queues without a profile.
    fn lay(&self, choice: &Choice, profile: Vec<Values>) -> Result<Values, ConfigError> {
        let chosen = matches!(choice, Choice::Profile(_));
        let without = |layer: &Values, keys: &[&str]| -> Values {
            layer
                .iter()
                .filter(|(k, _)| !(chosen && keys.contains(*k)))
                .map(|(k, v)| (*k, v.clone()))
                .collect()
        };
        let mut values = self.defaults.clone();
        for layer in &self.shared {
            limits::lay(&mut values, without(layer, &["profile.queue"]))?;
        }
        let names_system = profile.iter().any(|layer| layer.contains_key("profile.system"));
        for layer in profile {
            limits::lay(&mut values, layer)?;
        }
        for layer in &self.near {
            let skipped: &[&str] =
                if names_system { &["profile.queue", "profile.system"] } else { &["profile.queue"] };
            limits::lay(&mut values, without(layer, skipped))?;
        }
        Ok(values)
    }

    /// Expands paths, and compares values that must fit together.
    fn check(&self, values: &mut Values) -> Result<(), ConfigError> {
        for key in ["cluster.state_dir", "profile.log_directory"] {
            self.expand_path(values, key)?;
        }
        if let Some((Value::Text(shebang), place)) = values.get("profile.shebang")
            && !shebang.starts_with("#!/")
        {
            let why = format!("`{shebang}` doesn't start with `#!/`");
            return Err(ConfigError::BadValue {
                place: place.clone(),
                key: "profile.shebang".to_owned(),
                why,
            });
        }
        let duration = |key: &str| match values.get(key) {
            Some((Value::Duration(duration), place)) => (*duration, place.clone()),
            _ => (Duration::ZERO, Origin::flag("")),
        };
        let (heartbeat, heartbeat_place) = duration("scheduler.heartbeat");
        let (death, place) = duration("worker.death_timeout");
        if death < heartbeat.saturating_mul(HEARTBEATS_BEFORE_DEATH) {
            let why = format!(
                "{} is less than {HEARTBEATS_BEFORE_DEATH} heartbeats of {} ({heartbeat_place}): lengthen it, or \
                 shorten `scheduler.heartbeat`",
                super::display_duration(death),
                super::display_duration(heartbeat),
            );
            return Err(ConfigError::BadValue { place, key: "worker.death_timeout".to_owned(), why });
        }
        Ok(())
    }

    fn expand_path(&self, values: &mut Values, key: &'static str) -> Result<(), ConfigError> {
        let Some((Value::Text(text), place)) = values.get(key) else { return Ok(()) };
        let lookup = |name: &str| self.variables.iter().rfind(|(n, _)| n == name).map(|(_, v)| v.clone());
        let bad = |why: String| ConfigError::BadValue { place: place.clone(), key: key.to_owned(), why };
        let path = expand(text, &lookup).map_err(bad)?;
        let may_be_empty = key != "cluster.state_dir" && path.is_empty();
        if !may_be_empty && !Path::new(&path).is_absolute() {
            return Err(bad(format!("`{path}` is not an absolute path")));
        }
        if path.chars().any(char::is_control) {
            return Err(bad("a variable in it brings a control character".to_owned()));
        }
        let expanded = (Value::Text(path), place.clone());
        values.insert(key, expanded);
        Ok(())
    }
}

/// A key without a section is one of `profile`.
fn full_key(key: &str) -> String {
    if key.contains('.') { key.to_owned() } else { format!("profile.{key}") }
}

fn lay_flag(values: &mut Values, flag: &Flag) -> Result<(), ConfigError> {
    let place = Origin::flag(&flag.origin);
    let path = full_key(&flag.key);
    let known = file::find(&path, &place)?;
    let mut value = Value::from_text(known.kind, &flag.value).map_err(|why| ConfigError::BadValue {
        place: place.clone(),
        key: path,
        why,
    })?;
    if flag.append
        && let Some((base, _)) = values.get(known.path)
    {
        value = value.append(base);
    }
    limits::lay(values, Values::from([(known.path, (value, place))]))
}

/// Values to the structs that the rest of the program reads.
fn settle(values: Values, choice: Choice) -> Result<Settings, ConfigError> {
    let mut table = toml::Table::new();
    let mut entries = Vec::new();
    for key in KEYS {
        let missing = || ConfigError::BuiltIn(format!("`{}` has no default", key.path));
        let (value, origin) = values.get(key.path).ok_or_else(missing)?;
        let (section, name) = key.path.split_once('.').ok_or_else(missing)?;
        let section = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if let toml::Value::Table(section) = section {
            section.insert(name.to_owned(), value.to_toml());
        }
        entries.push(Entry { key: key.path, value: value.to_string(), origin: origin.clone() });
    }
    let settings: Settings = toml::Value::Table(table)
        .try_into()
        .map_err(|e: toml::de::Error| ConfigError::BuiltIn(e.to_string()))?;
    Ok(Settings { choice, entries, ..settings })
}
