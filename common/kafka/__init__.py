"""Sends and reads records of Kafka. The only package that uses the Kafka client."""

from kafka import TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from common.kafka.admin import TopicConfig, change_topic_config, connect_admin, missing_topics, reachable, topic_config
from common.kafka.reader import GroupOffsets, KafkaReader, RecordReader, group_offsets
from common.kafka.records import ReceivedRecord, Record
from common.kafka.sender import MAX_RECORD_BATCH_BYTES, KafkaSender, RecordSender, never_takes
from common.kafka.source import KafkaSource, RebalanceHandler, Source, connect_member
from common.kafka.tail import KafkaTail

__all__ = [
    "MAX_RECORD_BATCH_BYTES",
    "GroupOffsets",
    "KafkaError",
    "KafkaReader",
    "KafkaSender",
    "KafkaSource",
    "KafkaTail",
    "NewTopic",
    "RebalanceHandler",
    "ReceivedRecord",
    "Record",
    "RecordReader",
    "RecordSender",
    "Source",
    "TopicAlreadyExistsError",
    "TopicConfig",
    "TopicPartition",
    "change_topic_config",
    "connect_admin",
    "connect_member",
    "group_offsets",
    "missing_topics",
    "never_takes",
    "reachable",
    "topic_config",
]
