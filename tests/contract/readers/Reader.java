import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.networknt.schema.JsonSchema;
import com.networknt.schema.JsonSchemaFactory;
import com.networknt.schema.SchemaValidatorsConfig;
import com.networknt.schema.SpecVersion;
import io.cloudevents.CloudEvent;
import io.cloudevents.kafka.KafkaMessageFactory;
import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Reads committed records with the Java client, and prints each as a line of JSON.
 *
 * <p>Each value is read by the CloudEvents SDK and validated by the validator of networknt, with the schema
 * that its `dataschema` names. Arguments: the bootstrap servers, the folder of the schemas, and
 *
 * <ul>
 *   <li>`group TOPIC GROUP COUNT`: as a member of a group, from its last commit on, until COUNT records are
 *       read; it commits what it has read.
 *   <li>`seek TOPIC PARTITION OFFSET`: one partition, from an offset to its end.
 * </ul>
 */
public final class Reader {
    private static final Duration POLL = Duration.ofMillis(200);
    private static final ObjectMapper JSON = new ObjectMapper();
    private final Map<String, JsonSchema> schemas = new HashMap<>();

    private Reader(File folder) throws IOException {
        JsonSchemaFactory factory = JsonSchemaFactory.getInstance(SpecVersion.VersionFlag.V202012);
        SchemaValidatorsConfig config =
                SchemaValidatorsConfig.builder().formatAssertionsEnabled(true).build();
        for (File file : Objects.requireNonNull(folder.listFiles())) {
            JsonNode schema = JSON.readTree(file);
            schemas.put(schema.get("$id").asText(), factory.getSchema(schema, config));
        }
    }

    public static void main(String[] arguments) throws IOException {
        Reader reader = new Reader(new File(arguments[1]));
        String topic = arguments[3];
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", arguments[0]);
        settings.put("isolation.level", "read_committed");
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", false);
        settings.put("max.poll.records", 1);
        if (arguments[2].equals("group")) {
            settings.put("group.id", arguments[4]);
        }
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(
                        settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            if (arguments[2].equals("group")) {
                consumer.subscribe(List.of(topic));
                reader.count(consumer, Integer.parseInt(arguments[5]));
            } else {
                TopicPartition place = new TopicPartition(topic, Integer.parseInt(arguments[4]));
                consumer.assign(List.of(place));
                consumer.seek(place, Long.parseLong(arguments[5]));
                reader.toTheEnd(consumer, place);
            }
        }
    }

    private void count(KafkaConsumer<byte[], byte[]> consumer, int count)
            throws JsonProcessingException {
        for (int read = 0; read < count; ) {
            for (ConsumerRecord<byte[], byte[]> record : consumer.poll(POLL)) {
                print(record);
                read++;
            }
            consumer.commitSync();
        }
    }

    private void toTheEnd(KafkaConsumer<byte[], byte[]> consumer, TopicPartition place)
            throws JsonProcessingException {
        long end = consumer.endOffsets(List.of(place)).get(place);
        while (consumer.position(place) < end) {
            for (ConsumerRecord<byte[], byte[]> record : consumer.poll(POLL)) {
                print(record);
            }
        }
    }

    private void print(ConsumerRecord<byte[], byte[]> record) throws JsonProcessingException {
        ObjectNode line = JSON.createObjectNode();
        line.put("partition", record.partition());
        line.put("offset", record.offset());
        line.put("key", new String(record.key(), StandardCharsets.UTF_8));
        line.put("value", new String(record.value(), StandardCharsets.UTF_8));
        ObjectNode headers = line.putObject("headers");
        record.headers()
                .forEach(each -> headers.put(each.key(), new String(each.value(), StandardCharsets.UTF_8)));
        CloudEvent event =
                KafkaMessageFactory.createReader(record.headers(), record.value()).toEvent();
        ObjectNode read = line.putObject("event");
        read.put("id", event.getId());
        read.put("type", event.getType());
        read.put("source", event.getSource().toString());
        read.put("subject", event.getSubject());
        read.put("partitionkey", (String) event.getExtension("partitionkey"));
        read.put("data", new String(Objects.requireNonNull(event.getData()).toBytes(), StandardCharsets.UTF_8));
        JsonSchema schema = schemas.get(Objects.requireNonNull(event.getDataSchema()).toString());
        line.put("errors", schema.validate(line.get("value").asText(), com.networknt.schema.InputFormat.JSON).toString());
        System.out.println(JSON.writeValueAsString(line));
    }
}
