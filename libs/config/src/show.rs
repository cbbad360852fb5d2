//! The effective configuration as TOML, secrets masked.

use std::{collections::BTreeMap, path::Path};

use toml::{Table, Value};

use crate::{
    ApiKey, AppAction, AppNews, AuthMode, Config, CustomEvent, Issuer, LogFormat, RedisTopology, Secret,
    TraceProtocol, masked_url, settings::SETTINGS,
};

impl Config {
    /// What is in force, as a TOML file that would say the same, but for the secrets.
    #[must_use]
    pub fn to_toml_masked(&self) -> String {
        let mut root = Table::new();
        for setting in SETTINGS {
            let value = self.value(setting.key);
            match setting.key.split_once('.') {
                None => drop(root.insert(setting.key.to_owned(), value)),
                Some((section, key)) => {
                    let section = root.entry(section).or_insert_with(|| Value::Table(Table::new()));
                    if let Value::Table(section) = section {
                        section.insert(key.to_owned(), value);
                    }
                }
            }
        }
        let namespaces = self.namespaces.iter().map(|namespace| {
            let mut table = Table::new();
            table.insert("pattern".to_owned(), namespace.pattern.clone().into());
            table.insert("connect_roles".to_owned(), list(&namespace.connect_roles));
            table.insert("emit_roles".to_owned(), lists(&namespace.emit_roles));
            table.insert("emit_listed_only".to_owned(), namespace.emit_listed_only.into());
            table.insert("public_rooms".to_owned(), list(&namespace.public_rooms));
            table.insert("join_rooms".to_owned(), lists(&namespace.join_rooms));
            table.insert("volatile".to_owned(), list(&namespace.volatile));
            let limits = &namespace.limits;
            let numbers = [
                ("history", namespace.history),
                ("events", limits.events),
                ("events_per_socket", limits.events_per_socket),
            ];
            for (name, number) in numbers {
                if let Some(number) = number {
                    table.insert(name.to_owned(), i64::from(number).into());
                }
            }
            let by_event = limits.by_event.iter();
            let by_event: Table = by_event
                .map(|(event, number)| (event.clone(), i64::from(*number).into()))
                .collect();
            table.insert("by_event".to_owned(), by_event.into());
            table.insert("ordered_events".to_owned(), namespace.ordered_events.into());
            let events = namespace.custom_events.iter();
            let events = events.map(|(name, event)| (name.clone(), custom_event(event)));
            table.insert("custom_events".to_owned(), Value::Table(events.collect()));
            Value::Table(table)
        });
        root.insert("namespaces".to_owned(), Value::Array(namespaces.collect()));
        self.show_notifications(&mut root);
        let issuers: Vec<Value> = self.issuers.iter().map(issuer).collect();
        if !issuers.is_empty() {
            root.insert("issuers".to_owned(), Value::Array(issuers));
        }
        let keys: Vec<Value> = self.api.keys.iter().map(api_key).collect();
        if let Some(Value::Table(api)) = root.get_mut("api").filter(|_| !keys.is_empty()) {
            api.insert("keys".to_owned(), Value::Array(keys));
        }
        root.to_string()
    }

    fn show_notifications(&self, root: &mut Table) {
        let Some(Value::Table(section)) = root.get_mut("notifications") else {
            return;
        };
        let channels = self.notifications.channels.iter().map(|channel| {
            let table = Table::from_iter([
                ("url".to_owned(), secret(Some(&channel.url))),
                ("secret".to_owned(), secret(channel.secret.as_ref())),
                ("max_per_second".to_owned(), number(channel.max_per_second)),
                ("max_attempts".to_owned(), number(channel.max_attempts)),
                (
                    "retry_after_ms".to_owned(),
                    number(channel.retry_after.as_millis()),
                ),
                ("timeout_ms".to_owned(), number(channel.timeout.as_millis())),
            ]);
            (channel.name.clone(), Value::Table(table))
        });
        let channels: Table = channels.collect();
        if !channels.is_empty() {
            section.insert("channels".to_owned(), channels.into());
        }
        let rules = self.notifications.rules.iter().map(|rule| {
            let mut table = Table::from_iter([
                ("event".to_owned(), rule.event.clone().into()),
                ("type".to_owned(), rule.kind.clone().into()),
                ("title".to_owned(), rule.title.clone().into()),
                ("body".to_owned(), rule.body.clone().into()),
                ("channels".to_owned(), list(&rule.channels)),
            ]);
            if let Some(time) = rule.expire {
                table.insert("expire_hours".to_owned(), number(time.as_secs() / 3600));
            }
            Value::Table(table)
        });
        let rules: Vec<Value> = rules.collect();
        if !rules.is_empty() {
            section.insert("rules".to_owned(), rules.into());
        }
    }

    /// The value in force of a key of [`SETTINGS`]; empty text for none.
    fn value(&self, key: &str) -> Value {
        let Self {
            gateway,
            fanout,
            presence,
            bus,
            redis,
            grpc,
            auth,
            limits,
            app,
            log,
            trace,
            ..
        } = self;
        match key {
            "environment" => self.environment.clone().into(),
            "gateway.listen" => gateway.listen.to_string().into(),
            "gateway.grpc_listen" => gateway.grpc_listen.to_string().into(),
            "gateway.advertise" => text(gateway.advertise.as_deref()),
            "gateway.path" => gateway.path.clone().into(),
            "gateway.recovery_seconds" => number(gateway.recovery.as_secs()),
            "gateway.drain_seconds" => number(gateway.drain.as_secs()),
            "gateway.max_connection_age_seconds" => number(gateway.max_connection_age.as_secs()),
            "gateway.ping_interval_ms" => number(gateway.ping_interval.as_millis()),
            "gateway.ping_timeout_ms" => number(gateway.ping_timeout.as_millis()),
            "gateway.upgrade_timeout_ms" => number(gateway.upgrade_timeout.as_millis()),
            "gateway.connect_timeout_ms" => number(gateway.connect_timeout.as_millis()),
            "gateway.max_payload_bytes" => number(gateway.max_payload),
            "gateway.max_connections" => number(gateway.max_connections),
            "gateway.tls_cert" => path(gateway.tls_cert.as_deref()),
            "gateway.tls_key" => path(gateway.tls_key.as_deref()),
            "gateway.trusted_proxies" => list(&texts(&gateway.trusted_proxies)),
            "gateway.proxy_protocol" => gateway.proxy_protocol.into(),
            "gateway.allow_eio3" => gateway.allow_eio3.into(),
            "gateway.allow_msgpack" => gateway.allow_msgpack.into(),
            "gateway.compress_from_bytes" => number(gateway.compress_from),
            "gateway.send_queue_bytes" => number(gateway.send_queue),
            "gateway.handshake_timeout_ms" => number(gateway.handshake_timeout.as_millis()),
            "gateway.body_timeout_ms" => number(gateway.body_timeout.as_millis()),
            "gateway.max_header_bytes" => number(gateway.max_header_bytes),
            "gateway.interest_linger_seconds" => number(gateway.interest_linger.as_secs()),
            "fanout.grpc_listen" => fanout.grpc_listen.to_string().into(),
            "fanout.http_listen" => fanout.http_listen.to_string().into(),
            "presence.grpc_listen" => presence.grpc_listen.to_string().into(),
            "presence.grace_seconds" => number(presence.grace.as_secs()),
            "presence.crowd_size" => number(presence.crowd_size),
            "admin.listen" => self.admin.listen.to_string().into(),
            "admin.tls_cert" => path(self.admin.tls_cert.as_deref()),
            "admin.tls_key" => path(self.admin.tls_key.as_deref()),
            "bus.partitions" => number(bus.partitions),
            "bus.replicas" => number(bus.replicas),
            "bus.max_age_hours" => number(bus.max_age.as_secs() / 3600),
            "bus.max_messages_per_room" => number(bus.max_messages_per_room),
            "bus.url" => secret(bus.url.as_ref()),
            "bus.credentials" => path(bus.credentials.as_deref()),
            "bus.tls_ca" => path(bus.tls_ca.as_deref()),
            "bus.tls_cert" => path(bus.tls_cert.as_deref()),
            "bus.tls_key" => path(bus.tls_key.as_deref()),
            "redis.url" => secret(redis.url.as_ref()),
            "redis.topology" => match redis.topology {
                RedisTopology::Single => "single".into(),
                RedisTopology::Cluster => "cluster".into(),
                RedisTopology::Sentinel => "sentinel".into(),
            },
            "redis.sentinel_master" => redis.sentinel_master.clone().into(),
            "redis.tls_ca" => path(redis.tls_ca.as_deref()),
            "redis.tls_cert" => path(redis.tls_cert.as_deref()),
            "redis.tls_key" => path(redis.tls_key.as_deref()),
            "redis_emitter.enabled" => self.redis_emitter.enabled.into(),
            "redis_emitter.key" => self.redis_emitter.key.clone().into(),
            "redis_emitter.url" => secret(self.redis_emitter.url.as_ref()),
            "grpc.tls_ca" => path(grpc.tls_ca.as_deref()),
            "grpc.tls_cert" => path(grpc.tls_cert.as_deref()),
            "grpc.tls_key" => path(grpc.tls_key.as_deref()),
            "grpc.tls_server_name" => text(grpc.tls_server_name.as_deref()),
            "auth.mode" => match auth.mode {
                AuthMode::Guest => "guest".into(),
                AuthMode::Jwt => "jwt".into(),
                AuthMode::Session => "session".into(),
            },
            "auth.jwt_secret" => secret(auth.jwt_secret.as_ref()),
            "auth.jwt_previous_secret" => secret(auth.jwt_previous_secret.as_ref()),
            "auth.public_keys" => path(auth.public_keys.as_deref()),
            "auth.jwks_file" => path(auth.jwks_file.as_deref()),
            "auth.jwks_url" => url(auth.jwks_url.as_deref()),
            "auth.jwks_refresh_seconds" => number(auth.jwks_refresh.as_secs()),
            "auth.issuer" => text(auth.issuer.as_deref()),
            "auth.audience" => text(auth.audience.as_deref()),
            "auth.leeway_seconds" => number(auth.leeway.as_secs()),
            "auth.cookie" => text(auth.cookie.as_deref()),
            "auth.query" => text(auth.query.as_deref()),
            "auth.session_url" => url(auth.session_url.as_deref()),
            "auth.session_cache" => number(auth.session_cache),
            "auth.timeout_ms" => number(auth.timeout.as_millis()),
            "auth.tls_ca" => path(auth.tls_ca.as_deref()),
            "rooms.public" => list(&self.rooms.public),
            "notifications.keep_per_user" => number(self.notifications.keep_per_user),
            "notifications.expire_hours" => number(self.notifications.expire.as_secs() / 3600),
            "cors.origins" => list(&self.cors.origins),
            "api.key" => secret(self.api.key.as_ref()),
            "api.tls_cert" => path(self.api.tls_cert.as_deref()),
            "api.tls_key" => path(self.api.tls_key.as_deref()),
            "limits.events" => number(limits.events),
            "limits.window_seconds" => number(limits.window.as_secs()),
            "limits.by_event" => {
                let events = limits.by_event.iter();
                list(
                    &events
                        .map(|(name, count)| format!("{name}={count}"))
                        .collect::<Vec<_>>(),
                )
            }
            "limits.events_per_socket" => number(limits.events_per_socket),
            "limits.cut_after" => number(limits.cut_after),
            "limits.connections_per_ip" => number(limits.connections_per_ip),
            "limits.connections_per_user" => number(limits.connections_per_user),
            "limits.handshakes_per_ip" => number(limits.handshakes_per_ip),
            "limits.handshakes_per_second" => number(limits.handshakes_per_second),
            "limits.auth_failures_per_ip" => number(limits.auth_failures_per_ip),
            "limits.memory_mb" => number(limits.memory_mb),
            "app.webhook_url" => url(app.webhook_url.as_deref()),
            "app.webhook_secret" => secret(app.webhook_secret.as_ref()),
            "app.timeout_ms" => number(app.timeout.as_millis()),
            "app.max_concurrency" => number(app.max_concurrency),
            "app.authorize_url" => url(app.authorize_url.as_deref()),
            "app.authorize" => words(&app.authorize, AppAction::as_str),
            "app.lifecycle" => words(&app.lifecycle, AppNews::as_str),
            "app.authorize_cache" => number(app.authorize_cache),
            "app.tls_ca" => path(app.tls_ca.as_deref()),
            "admin_ui.username" => self.admin_ui.username.clone().into(),
            "admin_ui.password" => secret(self.admin_ui.password.as_ref()),
            "admin_ui.readonly" => self.admin_ui.readonly.into(),
            "admin_ui.events" => self.admin_ui.events.into(),
            "log.filter" => log.filter.clone().into(),
            "log.directory" => path(log.directory.as_deref()),
            "log.keep_days" => number(log.keep_days),
            "log.max_mb" => number(log.max_mb),
            "trace.endpoint" => url(trace.endpoint.as_deref()),
            "trace.protocol" => match trace.protocol {
                TraceProtocol::Grpc => "grpc".into(),
                TraceProtocol::Http => "http/protobuf".into(),
            },
            "trace.service_name" => text(trace.service_name.as_deref()),
            "trace.resource_attributes" => {
                let attributes = trace.resource_attributes.iter();
                list(
                    &attributes
                        .map(|(key, value)| format!("{key}={value}"))
                        .collect::<Vec<_>>(),
                )
            }
            "trace.sampler" => trace.sampler.clone().into(),
            "trace.sampler_arg" => trace.sampler_arg.into(),
            "trace.large_room" => number(trace.large_room),
            "trace.from_clients" => number(trace.from_clients),
            "log.format" => match log.format {
                LogFormat::Text => "text".into(),
                LogFormat::Json => "json".into(),
            },
            _ => "".into(),
        }
    }
}

fn custom_event(event: &CustomEvent) -> Value {
    let mut table = Table::new();
    // TOML has no null; a schema with one cannot be shown as it is.
    let schema = event
        .schema
        .as_ref()
        .map(|schema| Value::try_from(schema).unwrap_or_else(|_| schema.to_string().into()));
    table.extend(schema.map(|schema| ("schema".to_owned(), schema)));
    table.extend(
        event
            .ordered
            .map(|ordered| ("ordered".to_owned(), ordered.into())),
    );
    Value::Table(table)
}

fn issuer(issuer: &Issuer) -> Value {
    let fields = [
        ("issuer", issuer.issuer.clone().into()),
        ("audience", text(issuer.audience.as_deref())),
        ("secret", secret(issuer.secret.as_ref())),
        ("previous_secret", secret(issuer.previous_secret.as_ref())),
        ("public_keys", path(issuer.public_keys.as_deref())),
        ("jwks_file", path(issuer.jwks_file.as_deref())),
        ("jwks_url", url(issuer.jwks_url.as_deref())),
    ];
    let fields = fields.map(|(name, value)| (name.to_owned(), value));
    Value::Table(fields.into_iter().collect())
}

fn api_key(key: &ApiKey) -> Value {
    let scopes = key.scopes.iter().map(|scope| scope.as_str().into());
    let fields = [
        ("name", key.name.clone().into()),
        ("key", secret(Some(&key.key))),
        ("scopes", Value::Array(scopes.collect())),
    ];
    let fields = fields.map(|(name, value)| (name.to_owned(), value));
    Value::Table(fields.into_iter().collect())
}

fn number(number: impl TryInto<i64>) -> Value {
    Value::Integer(number.try_into().unwrap_or(i64::MAX))
}

fn text(text: Option<&str>) -> Value {
    text.unwrap_or_default().into()
}

fn url(url: Option<&str>) -> Value {
    url.map(masked_url).unwrap_or_default().into()
}

fn path(path: Option<&Path>) -> Value {
    path.map(|path| path.display().to_string())
        .unwrap_or_default()
        .into()
}

fn secret(secret: Option<&Secret>) -> Value {
    secret.map(ToString::to_string).unwrap_or_default().into()
}

fn texts(items: &[impl ToString]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn words<T: Copy>(items: &[T], word: fn(T) -> &'static str) -> Value {
    list(
        &items
            .iter()
            .map(|item| word(*item).to_owned())
            .collect::<Vec<_>>(),
    )
}

fn list(items: &[String]) -> Value {
    Value::Array(items.iter().map(|item| item.clone().into()).collect())
}

fn lists(lists: &BTreeMap<String, Vec<String>>) -> Value {
    Value::Table(
        lists
            .iter()
            .map(|(name, items)| (name.clone(), list(items)))
            .collect(),
    )
}
