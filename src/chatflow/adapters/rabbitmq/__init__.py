"""The broker and the live channel on RabbitMQ 3.10+ and 4.x, through aio-pika."""
