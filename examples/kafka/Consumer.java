import com.nimbusds.jose.JOSEException;
import com.nimbusds.jose.JOSEObjectType;
import com.nimbusds.jose.JWSAlgorithm;
import com.nimbusds.jose.JWSHeader;
import com.nimbusds.jose.JWSVerifier;
import com.nimbusds.jose.crypto.factories.DefaultJWSVerifierFactory;
import com.nimbusds.jose.jwk.AsymmetricJWK;
import com.nimbusds.jose.jwk.JWK;
import com.nimbusds.jose.jwk.JWKSet;
import com.nimbusds.jose.util.JSONObjectUtils;
import com.nimbusds.jwt.JWTClaimsSet;
import com.nimbusds.jwt.SignedJWT;
import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.text.ParseException;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Reads Security Event Tokens (RFC 8417) from a Kafka topic, verifies each, and takes each once. `consumer.py` beside this file says why
 * each step is there; what differs is the book of those taken, which lies in memory here: put it into your database, written in one
 * transaction with the work.
 */
public final class Consumer {
    private static final Set<JWSAlgorithm> ALGORITHMS =
            Set.of(JWSAlgorithm.ES256, JWSAlgorithm.RS256, JWSAlgorithm.PS256);
    /** By how much the issuer's clock may be ahead of ours. */
    private static final Duration LEEWAY = Duration.ofSeconds(120);
    /** For how long fetched keys are good. */
    private static final Duration KEYS_FRESH = Duration.ofSeconds(900);
    /** For how long they are used while the issuer cannot be asked. */
    private static final Duration KEYS_STALE = Duration.ofSeconds(3600);
    /** Between two fetches: strangers can invent key ids. */
    private static final Duration KEYS_AGAIN = Duration.ofSeconds(5);

    /** This token is no good, and will not become better. */
    private static final class Refused extends Exception {
        Refused(String reason) {
            super(reason);
        }
    }

    /** The token could not be judged; it may be good. */
    private static final class NotNow extends Exception {
        NotNow(String reason) {
            super(reason);
        }
    }

    /** The issuer's public keys, found by way of its metadata (SSF 1.0 §7.2). */
    private static final class Keys {
        private final HttpClient http = HttpClient.newBuilder()
                .followRedirects(HttpClient.Redirect.NEVER)
                .connectTimeout(Duration.ofSeconds(10))
                .build();
        final String issuer;
        private Map<String, JWK> keys = Map.of();
        private Instant fetched = Instant.MIN;

        Keys(String issuer) {
            this.issuer = issuer;
        }

        /** Keys are published before they sign: those fetched after the token was read are all there are. */
        JWK key(String kid, Instant readAt) throws Refused, NotNow {
            Instant now = Instant.now();
            boolean stale = fetched.isBefore(now.minus(KEYS_FRESH));
            if (stale || (!keys.containsKey(kid) && fetched.isBefore(readAt))) {
                try {
                    if (fetched.isAfter(now.minus(KEYS_AGAIN))) {
                        throw new IOException("they were asked for just now");
                    }
                    fetch();
                } catch (IOException | ParseException | IllegalArgumentException error) {
                    if (!keys.containsKey(kid) || fetched.isBefore(now.minus(KEYS_STALE))) {
                        throw new NotNow("no keys of " + issuer + " yet: " + error.getMessage());
                    }
                }
            }
            JWK key = keys.get(kid);
            if (key == null) {
                throw new Refused("the issuer has no key " + shown(kid));
            }
            return key;
        }

        private void fetch() throws IOException, ParseException {
            URI place = URI.create(issuer);
            String path = "/.well-known/ssf-configuration" + place.getRawPath().replaceAll("/+$", "");
            Map<String, Object> metadata = JSONObjectUtils.parse(
                    get(URI.create(place.getScheme() + "://" + place.getRawAuthority() + path)));
            if (!issuer.equals(metadata.get("issuer"))) {
                throw new IOException("the metadata is of another issuer");
            }
            URI jwks = URI.create(Objects.toString(metadata.get("jwks_uri"), ""));
            if (!place.getScheme().equals(jwks.getScheme())) {
                throw new IOException("the metadata has no jwks_uri of the issuer's scheme");
            }
            Map<String, JWK> found = new HashMap<>();
            for (JWK key : JWKSet.parse(get(jwks)).getKeys()) {
                if (key.getKeyID() != null && key instanceof AsymmetricJWK && ALGORITHMS.contains(key.getAlgorithm())) {
                    found.put(key.getKeyID(), key);
                }
            }
            keys = found;
            fetched = Instant.now();
        }

        private String get(URI from) throws IOException {
            HttpRequest request = HttpRequest.newBuilder(from).timeout(Duration.ofSeconds(10)).build();
            try {
                HttpResponse<InputStream> answer = http.send(request, HttpResponse.BodyHandlers.ofInputStream());
                try (InputStream body = answer.body()) {
                    if (answer.statusCode() != 200) {
                        throw new IOException(from + " answers " + answer.statusCode());
                    }
                    return new String(body.readNBytes(1 << 20), StandardCharsets.UTF_8);
                }
            } catch (InterruptedException stopped) {
                Thread.currentThread().interrupt();
                throw new IOException("stopped", stopped);
            }
        }
    }

    private static JWTClaimsSet verify(ConsumerRecord<byte[], byte[]> read, Keys keys, String audience, Instant readAt)
            throws Refused, NotNow {
        if (!"application/secevent+jwt".equals(contentType(read))) {
            throw new Refused("the content type is not that of a signed SET");
        }
        byte[] value = read.value() == null ? new byte[0] : read.value();
        JWTClaimsSet claims;
        try {
            SignedJWT token = SignedJWT.parse(new String(value, StandardCharsets.US_ASCII));
            JWSHeader header = token.getHeader();
            // A token of another kind that the same key has signed must not pass (RFC 8417 §2.3).
            JOSEObjectType type = header.getType();
            String kind = type == null ? "" : type.getType().toLowerCase(Locale.ROOT);
            if (!kind.equals("secevent+jwt") && !kind.equals("application/secevent+jwt")) {
                throw new Refused("`typ` is not secevent+jwt");
            }
            if (header.getCriticalParams() != null) {
                throw new Refused("`crit` names what is not understood here");
            }
            if (header.getKeyID() == null) {
                throw new Refused("no `kid`");
            }
            JWK key = keys.key(header.getKeyID(), readAt);
            // The algorithm is the key's own, whatever the header says.
            if (!header.getAlgorithm().equals(key.getAlgorithm())) {
                throw new Refused("`alg` is not that of the key");
            }
            JWSVerifier verifier =
                    new DefaultJWSVerifierFactory().createJWSVerifier(header, ((AsymmetricJWK) key).toPublicKey());
            if (!token.verify(verifier)) {
                throw new Refused("the signature is wrong");
            }
            claims = token.getJWTClaimsSet();
        } catch (ParseException | JOSEException error) {
            throw new Refused("no token: " + error.getMessage());
        }
        if (!keys.issuer.equals(claims.getIssuer())) {
            throw new Refused("`iss` is another");
        }
        if (!claims.getAudience().contains(audience)) {
            throw new Refused("`aud` is another");
        }
        if (claims.getClaim("exp") != null || claims.getClaim("sub") != null) {
            throw new Refused("a SET has neither `exp` nor `sub` (SSF 1.0 §4.1)");
        }
        if (claims.getIssueTime() == null || claims.getIssueTime().toInstant().isAfter(Instant.now().plus(LEEWAY))) {
            throw new Refused("`iat` is missing or lies ahead");
        }
        if (claims.getJWTID() == null || !(claims.getClaim("events") instanceof Map<?, ?> events) || events.isEmpty()) {
            throw new Refused("`jti` or `events` is not what it should be");
        }
        return claims;
    }

    private static String contentType(ConsumerRecord<byte[], byte[]> read) {
        Header header = read.headers().lastHeader("content-type");
        return header == null || header.value() == null
                ? ""
                : new String(header.value(), StandardCharsets.US_ASCII).toLowerCase(Locale.ROOT);
    }

    /** Your work. */
    private static void handle(JWTClaimsSet claims, ConsumerRecord<byte[], byte[]> read) {
        List<String> kinds = new ArrayList<>();
        ((Map<?, ?>) claims.getClaim("events")).keySet().forEach(uri -> kinds.add(uri.toString().replaceAll("^.*/", "")));
        System.out.println("verified  " + shown(String.join(" ", kinds)) + "  " + shown(claims.getClaim("sub_id")) + "  jti "
                + shown(claims.getJWTID()) + "  partition " + read.partition() + " offset " + read.offset());
    }

    /** Strangers' text on a terminal: nothing that a terminal would obey. */
    private static String shown(Object text) {
        return String.valueOf(text).replaceAll("\\p{C}", "?");
    }

    private static int run(Map<String, String> options, Properties more) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", options.get("brokers"));
        settings.put("group.id", options.get("group"));
        settings.put("enable.auto.commit", "false");
        settings.put("auto.offset.reset", "earliest");
        // Not the default of this client: what a producer took back would be read.
        settings.put("isolation.level", "read_committed");
        settings.put("max.poll.records", "100");
        settings.put("partition.assignment.strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor");
        settings.putAll(more);
        long count = Long.parseLong(options.get("count"));
        Duration patience = Duration.ofSeconds(Long.parseLong(options.get("seconds")));
        Keys keys = new Keys(options.get("issuer"));
        Set<String> book = Collections.newSetFromMap(new LinkedHashMap<>() {
            @Override
            protected boolean removeEldestEntry(Map.Entry<String, Boolean> eldest) {
                return size() > 1_000_000;
            }
        });
        long verified = 0;
        long duplicates = 0;
        long refused = 0;
        KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        Thread main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            consumer.wakeup();
            try {
                main.join(10_000);
            } catch (InterruptedException ignored) {
                Thread.currentThread().interrupt();
            }
        }));
        try (consumer) {
            consumer.subscribe(List.of(options.get("topic")));
            Instant quiet = Instant.now();
            while (verified < count) {
                ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofSeconds(1));
                if (records.isEmpty() && quiet.plus(patience).isBefore(Instant.now())) {
                    System.err.println("nothing came for " + patience.toSeconds() + " s");
                    return 1;
                }
                if (records.isEmpty()) {
                    continue;
                }
                Instant readAt = quiet = Instant.now();
                for (ConsumerRecord<byte[], byte[]> read : records) {
                    try {
                        JWTClaimsSet claims = judged(read, keys, options.get("audience"), readAt);
                        if (book.add(claims.getJWTID())) {
                            handle(claims, read);
                            verified++;
                        } else {
                            duplicates++;
                        }
                    } catch (Refused reason) {
                        // Keep the record with the reason where somebody looks.
                        refused++;
                        System.out.println("refused   " + shown(reason.getMessage()) + "  partition " + read.partition()
                                + " offset " + read.offset());
                    }
                }
                try {
                    consumer.commitSync();
                } catch (CommitFailedException | RebalanceInProgressException error) {
                    // The records come again, to us or to another consumer; the book knows them.
                    System.err.println("could not commit: " + error.getMessage());
                }
            }
        } catch (WakeupException stopped) {
            // Ctrl-C: what was worked on is committed or comes again.
        }
        System.out.println(verified + " verified, " + duplicates + " duplicates, " + refused + " refused");
        return refused == 0 ? 0 : 1;
    }

    /** The claims of a good SET. Waits while keys cannot be fetched: that is not the record's fault. */
    private static JWTClaimsSet judged(ConsumerRecord<byte[], byte[]> read, Keys keys, String audience, Instant readAt)
            throws Refused {
        while (true) {
            try {
                return verify(read, keys, audience, readAt);
            } catch (NotNow reason) {
                System.err.println("waiting: " + reason.getMessage());
                try {
                    Thread.sleep(KEYS_AGAIN.toMillis());
                } catch (InterruptedException stopped) {
                    Thread.currentThread().interrupt();
                    throw new WakeupException();
                }
            }
        }
    }

    public static void main(String[] words) {
        if (System.getProperty("org.slf4j.simpleLogger.defaultLogLevel") == null) {
            System.setProperty("org.slf4j.simpleLogger.defaultLogLevel", "warn");
        }
        Map<String, String> options = new HashMap<>(
                Map.of("brokers", "127.0.0.1:9092", "count", "" + Long.MAX_VALUE, "seconds", "1000000000"));
        Properties more = new Properties();
        for (int at = 0; at + 1 < words.length; at += 2) {
            String name = words[at].replaceFirst("^--", "");
            if (name.equals("property")) {
                String[] pair = words[at + 1].split("=", 2);
                more.put(pair[0], pair[1]);
            } else {
                options.put(name, words[at + 1]);
            }
        }
        Set<String> known = Set.of("brokers", "topic", "group", "issuer", "audience", "count", "seconds");
        if (words.length % 2 == 1 || !known.equals(options.keySet())) {
            System.err.println("usage: Consumer --topic T --group G --issuer URL --audience AUD [--brokers HOST:PORT,…]"
                    + " [--count N] [--seconds S] [--property NAME=VALUE]…");
            System.exit(2);
        }
        int code = run(options, more);
        if (code != 0) {
            System.exit(code);
        }
    }
}
