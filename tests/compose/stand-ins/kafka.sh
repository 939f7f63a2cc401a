# The start of the image apache/kafka: it turns variables into properties, formats an empty folder, and runs the broker.
set -euo pipefail
config=/tmp/server.properties
env | sed -n 's/^KAFKA_//p' | grep -v '^HEAP_OPTS=' | while IFS='=' read -r name value; do
    name=${name,,}
    echo "${name//_/.}=$value"
done > $config
java=(java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp '/opt/kafka/libs/*')
"${java[@]}" kafka.tools.StorageTool format --ignore-formatted -t "$CLUSTER_ID" -c $config
# shellcheck disable=SC2086
exec "${java[@]}" $KAFKA_HEAP_OPTS kafka.Kafka $config
