import java.util.Map;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

/** Java's producer, as other systems use it. Arguments: brokers, topic, codec, and the steps. */
class ForeignProducer {
    public static void main(String[] arguments) throws Exception {
        String topic = arguments[1];
        var producers = new java.util.HashMap<Boolean, KafkaProducer<String, String>>();
        int number = 0;
        for (int n = 3; n < arguments.length; n++) {
            // "commit:3": three records in a transaction; "plain:3": without one; "open:3": in one that never ends.
            String[] step = arguments[n].split(":");
            boolean transaction = !step[0].equals("plain");
            var producer = producers.computeIfAbsent(transaction, key -> open(arguments, key));
            if (transaction) {
                producer.beginTransaction();
            }
            for (int record = 0; record < Integer.parseInt(step[1]); record++) {
                String padding = step.length > 2 ? " " + "x".repeat(Integer.parseInt(step[2])) : "";
                producer.send(new ProducerRecord<>(topic, 0, "key", step[0] + " " + number++ + padding));
            }
            producer.flush();
            if (step[0].equals("commit")) {
                producer.commitTransaction();
            } else if (step[0].equals("abort")) {
                producer.abortTransaction();
            }
        }
        // Halt without a close, which would abort the open transaction.
        Runtime.getRuntime().halt(0);
    }

    private static KafkaProducer<String, String> open(String[] arguments, boolean transactional) {
        var settings = new java.util.HashMap<String, Object>(Map.of(
            "bootstrap.servers", arguments[0], "compression.type", arguments[2], "linger.ms", 1000,
            "batch.size", 900_000, "max.request.size", 5_000_000, "buffer.memory", 64_000_000));
        if (transactional) {
            settings.put("transactional.id", "foreign-" + arguments[1]);
        }
        var producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
        if (transactional) {
            producer.initTransactions();
        }
        return producer;
    }
}
