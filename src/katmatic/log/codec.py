import msgspec

from katmatic.records import Decision


def decode(topic, data):
    return msgspec.msgpack.decode(data, type=Decision)
