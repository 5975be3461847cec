// Look a name up by Java's InetAddress, and connect to each address.
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.UnknownHostException;
import java.util.StringJoiner;

public class Resolve {
    private static int connect(InetAddress one, int port) {
        try (Socket socket = new Socket()) {
            socket.connect(new InetSocketAddress(one, port), 5000);
            return 0;
        } catch (IOException error) {
            return String.valueOf(error.getMessage()).contains("not permitted") ? 1 : 5;
        }
    }

    public static void main(String[] words) {
        StringJoiner addresses = new StringJoiner(", ", "{", "}");
        String error = "";
        try {
            for (InetAddress one : InetAddress.getAllByName(words[0])) {
                addresses.add("\"" + one.getHostAddress() + "\": " + connect(one, Integer.parseInt(words[1])));
            }
        } catch (UnknownHostException unknown) {
            error = "unknown host";
        }
        System.out.println("{\"error\": \"" + error + "\", \"addresses\": " + addresses + "}");
    }
}
