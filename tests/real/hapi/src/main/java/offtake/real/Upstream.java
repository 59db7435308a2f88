package offtake.real;

import ca.uhn.fhir.rest.server.RestfulServer;
import ch.qos.logback.classic.Level;
import ch.qos.logback.classic.Logger;
import java.lang.management.ManagementFactory;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.ee10.servlet.ServletHolder;
import org.eclipse.jetty.server.HttpConfiguration;
import org.eclipse.jetty.server.HttpConnectionFactory;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.slf4j.LoggerFactory;
import org.springframework.context.annotation.AnnotationConfigApplicationContext;

/** Starts a HAPI FHIR JPA R4 server on an embedded Jetty at {@code /fhir}. */
public final class Upstream {
    static Options options;

    private Upstream() {}

    public static void main(String[] args) throws Exception {
        options = Options.parse(args);
        ((Logger) LoggerFactory.getLogger(org.slf4j.Logger.ROOT_LOGGER_NAME)).setLevel(Level.ERROR);

        AnnotationConfigApplicationContext spring = new AnnotationConfigApplicationContext(Wiring.class);

        Server jetty = new Server();
        HttpConfiguration http = new HttpConfiguration();
        http.setSendServerVersion(false);
        ServerConnector connector = new ServerConnector(jetty, new HttpConnectionFactory(http));
        connector.setHost("127.0.0.1");
        connector.setPort(options.number("port"));
        jetty.addConnector(connector);

        ServletContextHandler root = new ServletContextHandler();
        root.setContextPath("/");
        root.addServlet(new ServletHolder(spring.getBean(RestfulServer.class)), "/fhir/*");
        jetty.setHandler(root);
        jetty.setStopAtShutdown(true);
        Runtime.getRuntime().addShutdownHook(new Thread(spring::close));
        jetty.start();

        long up = System.currentTimeMillis() - ManagementFactory.getRuntimeMXBean().getStartTime();
        System.out.println("ready http://127.0.0.1:" + connector.getLocalPort() + "/fhir after " + up + " ms");
        jetty.join();
    }
}
