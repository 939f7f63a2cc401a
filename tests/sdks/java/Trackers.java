import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.ToNumberPolicy;
import com.segment.analytics.Analytics;
import com.segment.analytics.Callback;
import com.segment.analytics.messages.AliasMessage;
import com.segment.analytics.messages.GroupMessage;
import com.segment.analytics.messages.IdentifyMessage;
import com.segment.analytics.messages.Message;
import com.segment.analytics.messages.MessageBuilder;
import com.segment.analytics.messages.PageMessage;
import com.segment.analytics.messages.ScreenMessage;
import com.segment.analytics.messages.TrackMessage;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.OffsetDateTime;
import java.util.Date;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Phaser;

/** Drives Segment's SDK for Java. See tests/sdks/__init__.py. */
class Trackers {
    static final Gson JSON =
            new GsonBuilder().setObjectToNumberStrategy(ToNumberPolicy.LONG_OR_DOUBLE).create();

    public static void main(String[] none) throws Exception {
        Map<String, Analytics> clients = new TreeMap<>();
        Map<String, Map<String, String>> told = new TreeMap<>();
        Phaser underWay = new Phaser(1);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            Map<String, Object> order = object(JSON.fromJson(line, Object.class));
            String name = (String) order.get("client");
            if (order.containsKey("url")) {
                told.put(name, new ConcurrentHashMap<>());
                clients.put(name, client(order, told.get(name), underWay));
            } else {
                underWay.register();
                clients.get(name).enqueue(message((String) order.get("call"), object(order.get("message"))));
            }
        }
        clients.values().forEach(Analytics::flush);
        underWay.arriveAndAwaitAdvance();
        clients.values().forEach(Analytics::shutdown);
        System.out.print(JSON.toJson(told));
    }

    static Analytics client(Map<String, Object> order, Map<String, String> told, Phaser underWay) {
        Callback callback = new Callback() {
            @Override
            public void success(Message message) {
                underWay.arriveAndDeregister();
            }

            @Override
            public void failure(Message message, Throwable error) {
                told.put(String.valueOf(message.context().get("call")), String.valueOf(error.getMessage()));
                underWay.arriveAndDeregister();
            }
        };
        return Analytics.builder((String) order.get("key"))
                .endpoint((String) order.get("url"))
                .callback(callback)
                .build();
    }

    static MessageBuilder<?, ?> message(String call, Map<String, Object> sent) {
        MessageBuilder<?, ?> builder = builder(call, sent);
        builder.context(object(sent.get("context")));
        builder.timestamp(Date.from(OffsetDateTime.parse((String) sent.get("timestamp")).toInstant()));
        if (sent.get("userId") != null) {
            builder.userId((String) sent.get("userId"));
        }
        if (sent.get("anonymousId") != null) {
            builder.anonymousId((String) sent.get("anonymousId"));
        }
        object(sent.getOrDefault("integrations", Map.of()))
                .forEach((integration, on) -> builder.enableIntegration(integration, (Boolean) on));
        return builder;
    }

    static MessageBuilder<?, ?> builder(String call, Map<String, Object> sent) {
        Map<String, Object> properties = object(sent.get("properties"));
        Map<String, Object> traits = object(sent.get("traits"));
        return switch (call) {
            case "identify" -> IdentifyMessage.builder().traits(traits);
            case "track" -> TrackMessage.builder((String) sent.get("event")).properties(properties);
            case "page" -> PageMessage.builder((String) sent.get("name")).properties(properties);
            case "screen" -> ScreenMessage.builder((String) sent.get("name")).properties(properties);
            case "group" -> GroupMessage.builder((String) sent.get("groupId")).traits(traits);
            case "alias" -> AliasMessage.builder((String) sent.get("previousId"));
            default -> throw new IllegalArgumentException(call);
        };
    }

    @SuppressWarnings("unchecked")
    static Map<String, Object> object(Object value) {
        return (Map<String, Object>) value;
    }
}
