import java.net.URI;
import java.util.Map;
import org.springframework.amqp.core.Message;
import org.springframework.amqp.core.Queue;
import org.springframework.amqp.core.QueueBuilder;
import org.springframework.amqp.rabbit.connection.CachingConnectionFactory;
import org.springframework.amqp.rabbit.core.RabbitAdmin;
import org.springframework.amqp.rabbit.core.RabbitTemplate;
import org.springframework.amqp.rabbit.retry.RepublishMessageRecoverer;
import org.springframework.amqp.support.converter.Jackson2JsonMessageConverter;

/** Publishes messages as Spring AMQP writes them to the queue `recorded`, and their names to `recorded.names`. */
public class SpringMessages {
    public record OrderPaid(int id, String note) {}

    public static void main(String[] arguments) throws Exception {
        CachingConnectionFactory factory = new CachingConnectionFactory(URI.create(System.getenv("AMQP_URL")));
        RabbitAdmin admin = new RabbitAdmin(factory);
        RabbitTemplate template = new RabbitTemplate(factory);
        template.setMessageConverter(new Jackson2JsonMessageConverter());
        template.setReplyTimeout(500);
        admin.declareQueue(new Queue("recorded.names"));
        // What is rejected comes back after a moment.
        admin.declareQueue(QueueBuilder.durable("recorded")
                .deadLetterExchange("").deadLetterRoutingKey("recorded.retry").build());
        admin.declareQueue(QueueBuilder.durable("recorded.retry").ttl(100)
                .deadLetterExchange("").deadLetterRoutingKey("recorded").build());
        OrderPaid order = new OrderPaid(7, "é");

        template.convertAndSend("", "recorded", order);
        for (int time = 0; time < 2; time++) {
            await(admin);
            template.execute(channel -> {
                long tag = channel.basicGet("recorded", false).getEnvelope().getDeliveryTag();
                channel.basicReject(tag, false);
                return null;
            });
        }
        await(admin);
        name(template, "rejected");
        template.convertAndSend("", "recorded", order);
        name(template, "plain");
        template.convertSendAndReceive("", "recorded", order);
        name(template, "request");
        Message failed = template.getMessageConverter().toMessage(order, new org.springframework.amqp.core.MessageProperties());
        failed.getMessageProperties().setReceivedExchange("");
        failed.getMessageProperties().setReceivedRoutingKey("recorded");
        new RepublishMessageRecoverer(template, "", "recorded")
                .recover(failed, new IllegalStateException("no stock"));
        name(template, "republished");
        // The container of the replies keeps its threads.
        System.exit(0);
    }

    /** Waits until the queue has a message. */
    private static void await(RabbitAdmin admin) {
        while (admin.getQueueInfo("recorded").getMessageCount() == 0) {
            Thread.onSpinWait();
        }
    }

    private static void name(RabbitTemplate template, String name) {
        template.execute(channel -> {
            channel.basicPublish("", "recorded.names", null, name.getBytes());
            return null;
        });
    }
}
