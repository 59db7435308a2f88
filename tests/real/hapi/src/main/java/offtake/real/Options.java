package offtake.real;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;

/** Command line: {@code --name value}. Without one, what HAPI's own starter project has. */
final class Options {
    private final Map<String, String> values = new LinkedHashMap<>();

    private Options() {
        values.put("port", "8080");
        values.put("db", "mem");                      // or a folder for an H2 file
        values.put("default-page-size", "20");
        values.put("max-page-size", "unlimited");
        values.put("prefetch", "13,503,2003,-1");
        values.put("reuse-ms", "60000");              // how long an equal search gets the same list; or off
        values.put("retain-ms", "3600000");           // life of a list of results
        values.put("pretty", "true");
        values.put("server-address", "");             // base that links advertise; as the request came in if empty
    }

    static Options parse(String[] args) {
        Options o = new Options();
        for (int i = 0; i < args.length; i += 2) {
            String name = args[i].startsWith("--") ? args[i].substring(2) : args[i];
            if (!o.values.containsKey(name) || i + 1 == args.length) {
                throw new IllegalArgumentException("no such option, or no value: " + args[i] + "; known: " + o.values.keySet());
            }
            o.values.put(name, args[i + 1]);
        }
        return o;
    }

    String text(String name) {
        return values.get(name);
    }

    int number(String name) {
        return text(name).equals("unlimited") ? Integer.MAX_VALUE : Integer.parseInt(text(name));
    }

    List<Integer> numbers(String name) {
        return Stream.of(text(name).split(",")).map(Integer::valueOf).toList();
    }
}
