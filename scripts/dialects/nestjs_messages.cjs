// Publishes messages as a client of NestJS writes them to the queue `recorded`, and their names to
// `recorded.names`.

const main = async () => {
  const nest = await import("@nestjs/microservices");
  const { firstValueFrom, timeout } = await import("rxjs");
  const amqp = require("amqplib");
  const url = process.env.AMQP_URL;
  const names = await amqp.connect(url);
  const channel = await names.createChannel();
  await channel.assertQueue("recorded.names", { durable: true });
  const options = { urls: [url], queue: "recorded", queueOptions: { durable: true } };
  const client = nest.ClientProxyFactory.create({ transport: nest.Transport.RMQ, options });
  const record = async (title, send) => {
    // Nobody answers a request here.
    await firstValueFrom(send().pipe(timeout(1000))).catch(() => {});
    channel.sendToQueue("recorded.names", Buffer.from(title));
  };
  await client.connect();
  await record("event", () => client.emit("order.paid", { id: 7 }));
  await record("request", () => client.send("sum", [2, 3]));
  await record("object", () => client.send({ cmd: "sum", a: 1 }, [2, 3]));
  await client.close();
  await channel.close();
  await names.close();
};

main().then(() => process.exit(0));
